"""What came out of a sweep: a row for each combination of its options but the seed, over its seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from moejax import manifest
from moejax.files import write_whole
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation
from moejax.report.record import number
from moejax.sweep.plan import Planned, Sweep

_NONE = "–"

# By name in summary.json: the heading, how it is written, and in what unit.
MEASURED: dict[str, tuple[str, str, float]] = {
    "validation_bits_per_byte": ("validation, bits a byte", "{:.3f}", 1),
    "validation_accuracy": ("validation accuracy", "{:.2f}%", 1),
    "test_bits_per_byte": ("bits a byte", "{:.3f}", 1),
    "test_accuracy": ("test accuracy", "{:.2f}%", 1),
    "test_loss": ("test loss", "{:.4f}", 1),
    "max_violation": ("MaxVio", "{:.2f}", 1),
    "dropped": ("dropped", "{:.2f}%", 1),
    "parameters": ("parameters", "{:,.0f}", 1),
    "flops_per_example": ("MFLOP/example", "{:.2f}", 1e-6),
    "examples_per_second": ("examples/s", "{:,.0f}", 1),
    "seconds": ("training, s", "{:,.0f}", 1),
}
_OF_TEXT = "test_bits_per_byte"
_OF_SOME = (_OF_TEXT, "validation_bits_per_byte", "validation_accuracy")
_SAME = ("parameters", "flops_per_example")  # of all seeds


class Row(NamedTuple):
    """The runs of one combination: the values of its options, and the summaries of the finished ones by seed."""

    values: Mapping[str, str]
    planned: int  # runs, finished or not
    summaries: tuple[Mapping[str, Any], ...]

    def measured(self, name: str) -> list[float]:
        """What each of them measured under this name, NaN left out."""
        values = (number(summary.get(name)) for summary in self.summaries)
        return [value for value in values if value == value]


def rows(sweep: Sweep) -> list[Row]:
    """In the order of the sweep."""
    groups: dict[tuple[str, ...], list[Planned]] = {}
    for run in sweep.runs:
        groups.setdefault(tuple(run.values[name] for name in sweep.varied), []).append(run)
    return [
        Row(dict(zip(sweep.varied, values, strict=True)), len(runs), tuple(filter(None, map(_summary, runs))))
        for values, runs in groups.items()
    ]


def score(found: Sequence[Row]) -> str:
    """The name of what runs are judged by: bits a byte if any measured it, else accuracy."""
    return _OF_TEXT if any(row.measured(_OF_TEXT) for row in found) else "test_accuracy"


def tabulate(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Header and lines: mean ± standard deviation over the seeds."""
    lines, found = [], rows(sweep)
    measured = [name for name in MEASURED if name not in _OF_SOME or any(row.measured(name) for row in found)]
    for row in found:
        finished = f"{len(row.summaries)} of {row.planned}"
        lines.append([*(row.values[name] for name in sweep.varied), finished, *map(_over_seeds(row), measured)])
    return [*sweep.varied, "runs", *(MEASURED[name][0] for name in measured)], lines


def _over_seeds(row: Row) -> Callable[[str], str]:
    def cell(name: str) -> str:
        _, form, scale = MEASURED[name]
        values = [scale * value for value in row.measured(name)]
        if name in _SAME:
            values = list(dict.fromkeys(values))
        return mean_and_deviation(values, form) if values else _NONE

    return cell


def write(sweep: Sweep) -> list[str]:
    """Write results.json, table.md and, where something varies, plot.png into its folder; their paths."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | bytes] = {
        "results.json": json.dumps(as_json(sweep), indent=1) + "\n",
        "table.md": markdown(*tabulate(sweep)),
    }
    from moejax.sweep.plot import plot  # imported here, since that takes a second

    if picture := plot(sweep):
        files["plot.png"] = picture
    for name, content in files.items():
        write_whole(sweep.folder / name, content)
    return [str(sweep.folder / name) for name in files]


def as_json(sweep: Sweep) -> list[dict[str, Any]]:
    """An object a run: the values of its options, its folder, and its summary, null if it is not finished."""
    return [
        {"values": dict(run.values), "folder": str(run.folder), "summary": _summary(run) or None} for run in sweep.runs
    ]


def problems(sweep: Sweep) -> list[str]:
    """A sentence for each run whose summary is damaged, so that it is in no table."""
    files = {run.name: run.folder / "summary.json" for run in sweep.runs if run.is_finished}
    wrong = {name: problem for name, file in files.items() if (problem := manifest.object_in(file)[1])}
    return [
        f"{name} is left out: {files[name]} {problem}; delete it, and the same command writes it again."
        for name, problem in wrong.items()
    ]


def _summary(run: Planned) -> dict[str, Any]:
    return manifest.object_in(run.folder / "summary.json")[0]
