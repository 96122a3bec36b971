"""A run's disk is full, read-only or gone, in every phase of the run; then it is mended, and the run goes on.

While it lasts, the command has to end with exit code 2 and a sentence or two, the last of which says what was saved and
how to go on; every checkpoint that was whole stays whole. Afterwards the ordinary command must reach the same bits as
if nobody had disturbed the run. What a run can do without, such as a cache or a terminal, must not change its end.
"""

import errno
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from moejax import manifest
from moejax.errors import UserError
from tests.torture.figure import Figure
from tests.torture.lab import KINDS, RUN, Lab, each, goes_on, is_as, needs_compiler, open_labs, undisturbed

SEED = 31
OTHERS = (errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)
SIZES = (64, 128, 256, 512, 1024, 1152, 1280, 1536, 1792, 2048)  # KiB
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")
NO_HOME = {
    "not a folder": {"HOME": "/dev/null"},
    "missing": {"HOME": "/proc/nowhere"},
    "read-only": {"HOME": "/proc"},
    "not set": {"HOME": None},
}
NO_CACHE = {"MOEJAX_CACHE_DIR": None, "XDG_CACHE_HOME": None, "JAX_COMPILATION_CACHE_DIR": None}


class Failure(NamedTuple):
    """From this file operation on all of them fail.

    Attributes:
      number: of the operation.
      half: whether the first half of it is done still.
      error: with which they fail.
      again: the number of the operation, as the run goes on, from which on they fail once more; 0: none.
    """

    number: int
    half: bool
    error: int
    again: int = 0


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """All of it, at a sample of moments; a smaller one if `quick`."""
    with open_labs() as labs:
        for kind in list(KINDS)[: 1 if quick else None]:
            words = [*RUN, *KINDS[kind]]
            expected, operations = undisturbed(labs[0], words)
            yield from _failing(labs, kind, words, expected, operations, quick)
        yield _in_the_report(labs, words, expected, len(operations), 1 if quick else 20)
        yield _deleted(labs, words, expected, 1 if quick else 40)
        yield _done_without(labs, words, expected, quick)
        yield _small(labs, words, expected, SIZES[4:5] if quick else SIZES)


def _failing(
    labs: list[Lab], kind: str, words: list[str], expected: dict, operations: list[str], quick: bool
) -> Iterator[Figure]:
    draw = random.Random(SEED)
    moments = [(n, half) for n, op in enumerate(operations, 1) for half in [False] + [True] * (" write " in op)]
    full = [Failure(*moment, errno.ENOSPC) for moment in draw.sample(moments, 2 if quick else 100)]
    twice = [
        Failure(*moment, errno.ENOSPC, draw.randrange(1, len(operations)))
        for moment in draw.sample(moments, 1 if quick else 20)
    ]
    other = [Failure(*moment, error) for error in OTHERS for moment in draw.sample(moments, 10)]
    other = draw.sample(other, 1) if quick else other
    for what, cases in {
        f"full, from any of {len(operations)} file operations on": full,
        "full, and full once more as the run goes on": twice,
        "of another kind: quota, I/O error, read-only, no permission": other,
    }.items():
        yield _tried(f"{what} ({kind})", labs, words, expected, cases)


def _tried(what: str, labs: list[Lab], words: list[str], expected: dict, cases: Sequence[Failure]) -> Figure:
    def attempt(lab: Lab, case: Failure) -> tuple[int, int]:
        code = lab.begin(words, number=case.number, half=case.half, error=case.error)
        wrong = _judged(lab, code, expected, f"{case}", _renamed(lab, case.number))
        if case.again and not wrong:
            code = lab.run(words, number=case.again, error=case.error)
            wrong += _judged(lab, code, expected, f"{case}, as it went on", _renamed(lab, case.again))
        return code == 2, wrong + goes_on(lab, words, expected, f"{case}")

    failed, wrong = each(labs, cases, attempt)
    return Figure(f"a disk {what}", failed, _in_words(wrong), not wrong and failed >= 0.5 * len(cases))


def _in_the_report(labs: list[Lab], words: list[str], expected: dict, number: int, count: int) -> Figure:
    """The disk is full as the report of a run that did so many operations before is drawn."""
    cases = [Failure(number + 1 + 2 * i, False, errno.ENOSPC) for i in range(count)]

    def attempt(lab: Lab, case: Failure) -> tuple[int, int]:
        code = lab.begin(words, number=case.number, error=case.error, reports=True)
        wrong = _judged(lab, code, expected, f"{case} with the report", ())
        return code == 2, wrong + goes_on(lab, words, expected, f"{case} with the report")

    failed, wrong = each(labs, cases, attempt)
    return Figure("a disk full as the report is drawn", failed, _in_words(wrong), not wrong and failed > 0)


def _deleted(labs: list[Lab], words: list[str], expected: dict, count: int) -> Figure:
    """The run's folder, or its checkpoints alone, deleted as soon as the run has done so much."""
    draw = random.Random(SEED)
    cases = [(draw.choice(["", "checkpoints"]), draw.uniform(0.1, 1)) for _ in range(count)]

    def attempt(lab: Lab, case: tuple[str, float]) -> tuple[int, int]:
        name, seconds = case
        lab.clear()
        deleter = threading.Thread(target=_delete, args=(lab.seen / "checkpoints", lab.seen / name, seconds))
        deleter.start()
        code = lab.run(words)
        deleter.join()
        where = f"{name or 'the folder'} deleted {seconds:.2f} s after the first checkpoint began"
        if code == 0 and not any(lab.seen.glob("checkpoints/[0-9]*")):  # after it had saved for the last time
            return False, _judged(lab, code, None, where, ())
        left = _without_deleted(expected, lab) if name and not code else expected
        wrong = _judged(lab, code, None if code else left, where, ())
        if not name and code == 2 and (lab.seen / "config.json").exists():
            wrong += lab.problem(f"{where}, and it was made again")
        if not (lab.seen / "config.json").exists():
            lab.clear()  # what came into the folder as it was deleted
        return code == 2, wrong + goes_on(lab, words, left, where)

    failed, wrong = each(labs, cases, attempt)
    what = "a run's folder, or its checkpoints, deleted as it trains"
    return Figure(what, len(cases), f"{failed} stopped; {_in_words(wrong)}", not wrong and (failed > 0 or count == 1))


def _without_deleted(expected: dict, lab: Lab) -> dict:
    """What is expected of a run that had gone on and saved again: all but the earlier checkpoints that were deleted."""
    step_of = {name: name.split("/")[1] for name in expected["files"] if name.startswith("checkpoints/")}
    last = max(step_of.values(), key=int)
    gone = {step for step in step_of.values() if step != last and not (lab.seen / "checkpoints" / step).exists()}
    return expected | {"files": [name for name in expected["files"] if step_of.get(name) not in gone]}


def _delete(begun: Path, folder: Path, seconds: float) -> None:
    end = time.monotonic() + 300
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(seconds)
    for _ in range(3):  # a file may come into it meanwhile
        shutil.rmtree(folder, ignore_errors=True)


def _done_without(labs: list[Lab], words: list[str], expected: dict, quick: bool) -> Figure:
    """A cache, a home and a terminal that cannot be written: the run ends as any other."""
    cases: dict[str, dict] = {f"home {name}": {"environment": NO_CACHE | home} for name, home in NO_HOME.items()}
    cases |= {f"{' and '.join(full)} full": {"full": full} for full in (["out"], ["err"], ["out", "err"])}
    for number in (1, 2, 3, 5, 8, 13):
        cases[f"the programs' cache full from operation {number} on"] = {"number": number, "error": errno.ENOSPC}
    names = ["out and err full"] if quick else list(cases)

    def attempt(lab: Lab, name: str) -> tuple[int, int]:
        how = dict(cases[name])
        if "number" in how:
            cache = Path(tempfile.mkdtemp(dir=lab.room))
            how |= {"within": cache, "environment": {"JAX_COMPILATION_CACHE_DIR": str(cache)}}
        return 1, _judged(lab, lab.begin(words, **how), None, name, ()) or is_as(lab, expected, name)

    tried, wrong = each(labs, names, attempt)
    found = f"{wrong} ended otherwise" if wrong else "all ended as if it could be written"
    return Figure("a home, a cache, stdout or stderr that cannot be written", tried, found, not wrong)


class SmallDisk(Lab):
    """A lab whose runs are on a file system of their own, in memory, which no other process sees."""

    def __init__(self, place: Path, number: int):
        super().__init__(place, number, inside=OWN_MOUNTS)
        self.disk = self.room / "disk"
        self.folder = self.disk / "run"
        self.seen = Path(f"/proc/{self.server.pid}/root{self.folder}")
        self.disk.mkdir()

    def mount(self, kibibytes: int) -> bool:
        """An empty one of that size; False if this process may not have it."""
        self.ask({"command": ["umount", str(self.disk)]})
        return not self.ask({"command": ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "disk", str(self.disk)]})

    def grow(self) -> None:
        """Have all the space that a run needs."""
        self.ask({"command": ["mount", "-o", "remount,size=64m", str(self.disk)]})


def _small(labs: list[Lab], words: list[str], expected: dict, sizes: Sequence[int]) -> Figure:
    """The run's folder on a real file system that is too small."""
    what = f"a disk of {sizes[0]} to {sizes[-1]} KiB" if len(sizes) > 1 else f"a disk of {sizes[0]} KiB"
    refused = Figure(what, 0, "this user may not mount one here, so not tried", True)
    if not shutil.which(OWN_MOUNTS[0]) or subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode:
        return refused
    failed = wrong = 0
    with SmallDisk(labs[0].room.parent, len(labs)) as lab:
        for size in sizes:
            if not lab.mount(size):
                return refused
            code = lab.run(words)
            failed += code == 2
            wrong += _judged(lab, code, expected, f"{size} KiB", ())
            lab.grow()
            wrong += goes_on(lab, words, expected, f"{size} KiB")
    return Figure(what, failed, _in_words(wrong), not wrong and failed > 0)


def _renamed(lab: Lab, before: int) -> list[int]:
    """The steps that the last run saved, by its operations up to one."""
    names = [operation.split(" ", 2)[1:] for operation in lab.operations()[: before - 1]]
    found = [re.search(r"/checkpoints/(\d+)$", path) for name, path in names if name == "rename"]
    return [int(step[1]) for step in found if step]


def _judged(lab: Lab, code: int, expected: dict | None, case: str, saved: Sequence[int]) -> int:
    """How many things are wrong with how the run ended; says them. Of `saved`, the last step must be there."""
    said = lab.said("err").splitlines()
    there = sorted(int(path.name) for path in lab.seen.glob("checkpoints/*") if path.name.isdecimal())
    problems = [line for line in said if not line.startswith("moejax: ")][:3]
    if code not in (0, 2):
        problems.append(f"exit code {code}")
    if code == 2 and len(said) not in (1, 2):
        problems.append(f"{len(said)} lines")
    if code == 2 and (lab.seen / "config.json").exists():
        finished = (lab.seen / "summary.json").exists()
        problems += [f"no word of {word!r}" for word in _words(lab, there, finished) if word not in said[-1]]
    if saved and saved[-1] not in there:
        problems.append(f"step {saved[-1]} was saved, and is gone")
    for step in there:
        try:
            manifest.verify(lab.seen / "checkpoints" / str(step))
        except UserError as error:
            problems.append(str(error))
    wrong = sum(lab.problem(f"{case}: {problem}") for problem in problems)
    return wrong + (is_as(lab, expected, case) if code == 0 and expected else 0)


def _words(lab: Lab, there: Sequence[int], finished: bool) -> list[str]:
    """What the last sentence has to say of a run that stays."""
    return [str(lab.folder), *([f"step {there[-1]}"] if there and not finished else [])]


def _in_words(wrong: int) -> str:
    return f"{wrong} lost something, or said it wrong" if wrong else "a sentence, and on to the same bits"
