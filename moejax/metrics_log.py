"""The lines of a run's metrics.jsonl, read: by the run that goes on, by its report and by the studies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moejax import manifest
from moejax.json_text import read_json

NAME = "metrics.jsonl"
KINDS = ("train", "validation", "test", "skipped")
NUMBERS = ("epoch", "seconds", "loss", "accuracy")  # what each line of a run has but those on skipped steps
_OF_SKIPPED = ("epoch", "seconds", "count", "in_a_row")


def read(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """As `records`; where the file is damaged or missing, no records and a sentence."""
    content, problem = manifest.content(file)
    return ([], [f"{file} {problem or 'is missing'}."]) if content is None else records(content, file)


def records(content: bytes, file: Path, numbers: Sequence[str] = NUMBERS) -> tuple[list[dict[str, Any]], list[str]]:
    """The records in the content of a file, in their order, and a sentence for each line that is none.

    Records have the named numbers. A last line that was cut short, when the run was killed while it wrote, is left out
    without a word.
    """
    found, problems = [], []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _record(line, numbers)
        if record is not None:
            found.append(record)
        elif line.strip() and number < len(lines):
            problems.append(f"{file}, line {number}, is not what was written: {line[:40].decode(errors='replace')!r}.")
    return found, problems


def tests(content: bytes) -> bytes:
    """The lines on the test examples alone."""
    lines = ((line, _record(line, NUMBERS)) for line in content.splitlines(keepends=True))
    return b"".join(line for line, record in lines if record and record["kind"] == "test" and line.endswith(b"\n"))


def _record(line: bytes, numbers: Sequence[str]) -> dict[str, Any] | None:
    try:
        record = read_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("kind") not in KINDS or type(record.get("step")) is not int:
        return None
    if record["kind"] == "skipped":
        numbers = _OF_SKIPPED
    return record if all(type(record.get(name)) in (int, float) for name in numbers) else None
