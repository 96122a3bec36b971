"""Whether a power cut can leave a checkpoint or a file that has its name and not what it should hold.

A disk may write what it was given in any order, unless it is synced in between. So of the operations of an undisturbed
run it is asked: was each file, and each folder, synced before the rename that shows it, and the new name after it?
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moejax import manifest, metrics_log
from tests.torture.figure import Figure, figure
from tests.torture.lab import RUN, Lab, needs_compiler

SYNCS, WRITES = ("fsync", "fdatasync"), ("write", "ftruncate", "ftruncate64")
_PARTIAL = re.compile(r"/\.([^/]+)\.[0-9a-f]{8}\.partial$|/(\d+)\.partial\b")  # of a file, of a checkpoint


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """A figure for the checkpoints and one for the other files; `quick` or not, of one run."""
    with tempfile.TemporaryDirectory(prefix="moejax-power-") as place, Lab(Path(place), 0) as lab:
        if lab.begin([*RUN, "--train.checkpoints", "all"]):
            raise RuntimeError(f"a run that nobody disturbed failed: {lab.said()}")
        done = operations(lab.operations())
        steps = [path for path in (lab.folder / "checkpoints").iterdir() if path.name.isdecimal()]
        yield _figure("checkpoints", [(path, step) for step in steps for path in (step, *step.rglob("*"))], done)
        renamed = {Path(path) for name, path in done if name == "rename" and Path(path).is_file()}
        beside = sorted(path for path in renamed if lab.folder / "checkpoints" not in path.parents)
        log, seal = (lab.folder / name for name in (metrics_log.NAME, manifest.NAME))  # lines are added until the end
        yield _figure("other files", [(path, seal if path == log else path) for path in beside], done)


def operations(lines: list[str]) -> list[tuple[str, str]]:
    """The name of each and its path, in their order; what was not yet shown by the name that it is shown by."""
    done = (line.split(" ", 2)[1:] for line in lines)
    return [(name, _PARTIAL.sub(lambda found: f"/{found[1] or found[2]}", path)) for name, path in done]


def problems(path: Path, shown_as: Path, done: list[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with the order, of a file or folder that is there since something was renamed to `shown_as`."""

    def places(names: tuple[str, ...], of: Path) -> list[int]:
        return [n for n, (name, at) in enumerate(done) if name in names and at == str(of)]

    shown = max(places(("rename",), shown_as))
    written = max(places(WRITES, path), default=-1)
    if not any(written < place < shown for place in places(SYNCS, path)):
        yield f"{path} was not synced before {shown_as.name} was there"
    if not any(place > shown for place in places(SYNCS, shown_as.parent)):
        yield f"{shown_as.parent} was not synced after {shown_as.name} was there"


def _figure(what: str, paths: list[tuple[Path, Path]], done: list[tuple[str, str]]) -> Figure:
    wrong = {problem for path, shown_as in paths for problem in problems(path, shown_as, done)}
    found = "synced before they have their names, and the names after that"
    of = figure(f"{what} of a run, in the order of its operations", len(paths), sorted(wrong), found)
    return of._replace(good=of.good and bool(paths))
