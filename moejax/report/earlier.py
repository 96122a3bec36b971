"""The run before: the latest one beside this that was tested on the same data when this one began, and what changed."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from moejax import manifest, predictions
from moejax.report.record import ABSENT, Record, differences, number

_BEGINS = ("config.json", "env.json", "data.json")  # what a run writes first
_SAME = ("dataset", "test_examples")  # of both runs' summaries
_MEASURED = {"test_loss": "{:.4f}", "seconds": "{:,.0f}", "examples_per_second": "{:,.0f}", "parameters": "{:,.0f}"}


class Earlier(NamedTuple):
    """What is read of it."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]


def earlier(record: Record) -> Earlier | None:
    """The run before, if there is one that can be held against this."""
    if not record.summary:
        return None
    began = min(_written(record.folder / name) for name in _BEGINS)
    finished = [(_written(file), file.parent) for file in record.folder.parent.glob("*/summary.json")]
    for when, folder in sorted(finished, reverse=True):
        if when > began or folder.resolve() == record.folder:
            continue
        (config, _), (summary, _) = (manifest.object_in(folder / name) for name in ("config.json", "summary.json"))
        same = all(summary.get(name) == record.summary.get(name) for name in _SAME)
        if config and summary and same and _saw_the_same(record, folder, summary):
            return Earlier(folder, config, summary)
    return None


def _saw_the_same(record: Record, folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether both were tested on the same examples, by their answers, or else by the files that the data came from."""
    theirs = _answers(folder)
    if record.predictions and theirs:
        return record.predictions.test_sha256 == theirs.test_sha256
    return record.summary.get("data_sha256") == summary.get("data_sha256")


def _answers(folder: Path) -> predictions.Predictions | None:
    content, _ = manifest.content(folder / predictions.NAME)
    return None if content is None else predictions.unpack(content)


def beside(record: Record, before: Earlier) -> str:
    """HTML of this run and the run before in one table, and a sentence on it."""
    here, there = (_score(record, summary) for summary in (record.summary, before.summary))
    measured = [
        (name.replace("_", " "), *(_number(summary, name, form) for summary in (record.summary, before.summary)))
        for name, form in _MEASURED.items()
    ]
    changed = differences([record.config, before.config])
    options = [(name, *values) for name, values in changed.items() if name != "name"]
    rows = [("score", here, there), *measured, *options]
    body = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td>{escape(ours)}</td><td>{escape(theirs)}</td></tr>'
        for what, ours, theirs in rows
    )
    return (
        '<section id="earlier"><h2>Beside the run before</h2>'
        f"<p><b>Here</b> {escape(_sentence(record, before, here, there, len(options)))}</p>"
        '<div class="grid"><table><thead><tr><td></td><th scope="col">this run</th>'
        f'<th scope="col">{escape(before.folder.name)}</th></tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _sentence(record: Record, before: Earlier, here: str, there: str, changed: int) -> str:
    said = f"{here}, after {there} of the run before" if here != there else f"{here}, as the run before"
    options = "with the same options" if not changed else f"with {changed} option{'s' * (changed > 1)} changed"
    alone = _right_alone(record, before.folder)
    if alone is None:
        return f"{said}, {options}."
    if alone == (0, 0):
        return f"{said}, {options}, and the same test examples are right."
    return (
        f"{said}, {options}: {alone[0]:,} test examples are right here alone, {alone[1]:,} there alone. Whether that is"
        " more than chance, the command at the end says."
    )


def _right_alone(record: Record, folder: Path) -> tuple[int, int] | None:
    """How many test examples each of them alone has right; None where that is not known of one answer an example."""
    ours, theirs = record.predictions, _answers(folder)
    if ours is None or theirs is None or ours.label.ndim != 1:
        return None
    return int((ours.right & ~theirs.right).sum()), int((theirs.right & ~ours.right).sum())


def _score(record: Record, summary: dict[str, Any]) -> str:
    if record.is_text:
        return f"{_number(summary, 'test_bits_per_byte', '{:.3f}')} bits a byte"
    return _number(summary, "test_accuracy", "{:.2%}")


def _number(summary: dict[str, Any], name: str, form: str) -> str:
    value = number(summary.get(name))
    return form.format(value) if math.isfinite(value) else ABSENT


def _written(file: Path) -> float:
    """When, in seconds; for a file that is not there, never."""
    try:
        return file.stat().st_mtime
    except OSError:
        return math.inf
