"""A table of text columns out of files: tab- or comma-separated, Parquet or JSON lines.

The library `datasets` reads them; nothing goes through a network, and nothing stays in its cache. In a .tsv file
quotation marks mean nothing, as in GLUE's; in a .csv file they enclose a field.
"""

import contextlib
import csv
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moejax.data.library_errors import importing, said_as
from moejax.errors import UserError

_TEXT = {"keep_default_na": False, "encoding": "utf-8-sig"}  # "NA" and "null" are words
READERS: dict[str, tuple[str, dict[str, Any]]] = {  # by a file's ending: a reader of `datasets`, with its options
    ".tsv": ("csv", {"sep": "\t", "quoting": csv.QUOTE_NONE, **_TEXT}),
    ".csv": ("csv", _TEXT),
    ".parquet": ("parquet", {}),
    ".jsonl": ("json", {}),
}
Table = dict[str, list]  # columns by name


def read(paths: Sequence[Path]) -> Table:
    """The columns of files of one ending; classes that a column numbers by name are their names.

    Raises:
      UserError: they cannot be read, or are empty.
    """
    with importing("datasets"):
        import datasets

    if len({path.suffix.lower() for path in paths}) > 1:
        raise UserError(f"{paths[0]} and {paths[-1]} have other endings, but are one split: give one kind of file.")
    reader, options = READERS[paths[0].suffix.lower()]
    columns = 0
    for path in paths:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty: give it a row with the names of its columns, and then the pairs.")
        if reader == "csv":
            columns = max(columns, _columns(path, options))
    if reader == "csv":  # what looks like a number is a word, too: 01 is not 1
        options = options | {"converters": dict.fromkeys(range(columns), str)}

    def sentence(problem: str) -> str:
        return f"{paths[0]} cannot be read as a table ({problem}): mend that line, or write the file again."

    with said_as(sentence), _quiet(datasets), tempfile.TemporaryDirectory() as cache:
        try:
            files = {"train": [str(path) for path in paths]}
            rows = datasets.load_dataset(reader, data_files=files, cache_dir=cache, **options)["train"]
            return {name: _named(rows[name][:], rows.features[name]) for name in rows.column_names}
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from None


def _named(values: list, feature: Any) -> list:
    """The names of classes in place of their numbers, where a column has such; None for -1, which means no label."""
    names = getattr(feature, "names", None)
    return values if names is None else [names[n] if n is not None and 0 <= n < len(names) else None for n in values]


def _columns(path: Path, options: Mapping[str, Any]) -> int:
    """How many there are; UserError if its first row has another number than its header: they would be shifted."""
    form = {"delimiter": options.get("sep", ","), "quoting": options.get("quoting", csv.QUOTE_MINIMAL)}
    with open(path, encoding=options["encoding"], errors="replace", newline="") as file:
        try:
            rows = csv.reader(file, **form)
            header, first = next(rows, []), next(rows, [])
        except csv.Error:
            return 0  # told by the reader
    if first and len(first) != len(header):
        raise UserError(f"{path} has {len(header)} columns by its header, but {len(first)} in the first row: mend it.")
    return len(header)


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without its bars of progress and its log."""
    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
