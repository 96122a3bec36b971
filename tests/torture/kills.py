"""A run is killed before each of its file operations, in the middle of each write, and at random moments.

Then the ordinary command goes on. Parameters, optimiser state and metrics.jsonl must be those of a run that nobody
disturbed, bit for bit but for times, and its folder must hold the same files.
"""

import contextlib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moejax.kernels.blas_threads import cores
from tests.torture.figure import Figure

HERE = Path(__file__).parent
SEED = 23
RUN = [
    *("--config", "text_tiny", "--data.name", "text", "--data.length", "16", "--data.limit", "64"),
    *("--data.evaluation_limit", "16", "--data.dir", str(HERE.parent.parent / "README.md")),
    *("--model.width", "8", "--model.depth", "1", "--moe.hidden", "8", "--moe.num_experts", "2"),
    *("--train.epochs", "3", "--train.batch_size", "16", "--train.chunk", "2", "--train.evaluation_batch", "16"),
    *("--moe.dispatch", "gather"),  # JAX keeps no program that calls Python, as those of grouped products do
]
KINDS = {
    "the latest and the best kept": [],
    "all kept, averaged, the best tested": [
        *("--train.checkpoints", "all", "--train.average", "0.5", "--train.tested", "best")
    ],
}
TIMES = ("seconds", "examples_per_second")


class Lab:
    """A folder for runs, and the server that makes them; labs in one place share their programs."""

    def __init__(self, place: Path, number: int):
        self.room, library = place / str(number), place / f"operations{number}.so"
        self._run = self.room / "run"
        self.room.mkdir()
        built = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "operations.c"), "-ldl"]
        subprocess.run(built, check=True)
        here = {"LD_PRELOAD": str(library), "JAX_COMPILATION_CACHE_DIR": str(place / "programs")}
        quiet = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONWARNINGS": "ignore"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.server"],
            env=os.environ | here | quiet,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()
        self.server.wait()

    def begin(self, words: list[str], **how: Any) -> int:
        """A new run; otherwise as `run`."""
        shutil.rmtree(self._run, ignore_errors=True)
        return self.run(words, **how)

    def run(self, words: list[str], *, number: int = 0, half: bool = False, seconds: float = 300) -> int:
        """Begin the run, or go on with it; the exit code, -9 for one that was killed."""
        words = ["--resume", str(self._run)] if (self._run / "config.json").exists() else [*words, "--out", self._run]
        counted = {"folder": self._run, "number": number, "half": half, "list_to": self.room / "operations"}
        asked = {"words": words, "arm": counted, "seconds": seconds, "folder": self._run}
        asked |= {"digest": self.room / "digest", "said": self.room / "said"}
        (self.room / "digest").unlink(missing_ok=True)
        print(json.dumps(asked, default=str), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def operations(self) -> list[str]:
        """What the last run did, each as `NUMBER NAME PATH`."""
        return (self.room / "operations").read_text(encoding="utf-8").splitlines()

    def found(self) -> dict[str, Any]:
        """What a finished run has to have in common with another one."""
        log = (self._run / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in log.splitlines()]
        metrics = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
        files = {re.sub(r"checkpoints/(\d+)/state/.*", r"checkpoints/\1/state", name) for name in _files(self._run)}
        state = (self.room / "digest").read_text(encoding="utf-8")
        return {"state": state, "metrics": metrics, "files": sorted(files)}

    def said(self) -> str:
        """What the last run printed."""
        return (self.room / "said").read_text(encoding="utf-8", errors="replace")

    def problem(self, what: str) -> int:
        """Say it, with what the last run printed; 1."""
        print(f"  {what}\n{self.said()[-1500:]}", flush=True)
        return 1


def torture(quick: bool) -> Iterator[Figure]:
    """Every operation of both kinds of runs, then random moments; a sample of each if `quick`."""
    if shutil.which("cc") is None:
        yield Figure("a run killed at each file operation", 0, "no C compiler here, so not tried", True)
        return
    with tempfile.TemporaryDirectory(prefix="moejax-kills-") as place, contextlib.ExitStack() as open_labs:
        labs = [open_labs.enter_context(Lab(Path(place), number)) for number in range(cores())]
        for kind, options in KINDS.items():
            yield _at_operations(labs, kind, [*RUN, *options], quick)
        yield _at_random(labs, [*RUN, *KINDS["all kept, averaged, the best tested"]], 2 if quick else 50)


def _each(labs: list[Lab], cases: Iterable, attempt: Callable[[Lab, Any], tuple[int, int]]) -> tuple[int, int]:
    """Sums of (killed, wrong) over the cases, each of which is tried in the lab that is free."""
    free: queue.SimpleQueue[Lab] = queue.SimpleQueue()
    for lab in labs:
        free.put(lab)

    def one(case: Any) -> tuple[int, int]:
        lab = free.get()
        try:
            return attempt(lab, case)
        finally:
            free.put(lab)

    with ThreadPoolExecutor(len(labs)) as pool:
        found = list(pool.map(one, cases))
    return sum(killed for killed, _ in found), sum(wrong for _, wrong in found)


def _at_operations(labs: list[Lab], kind: str, words: list[str], quick: bool) -> Figure:
    expected, operations = _undisturbed(labs[0], words)
    cases = [(n, half) for n, op in enumerate(operations, 1) for half in [False] + [True] * (" write " in op)]
    if quick:
        cases = random.Random(SEED).sample(cases, 6)

    def attempt(lab: Lab, case: tuple[int, bool]) -> tuple[int, int]:
        (number, half), wrong = case, 0
        ended = lab.begin(words, number=number, half=half)
        where = f"{'half-way in' if half else 'before'} {number}, {operations[number - 1]}"
        if ended not in (0, -9):  # 0: threads made it one operation less, so that none had this number
            wrong += lab.problem(f"exit code {ended} {where}")
        return ended == -9, wrong + _goes_on(lab, words, expected, f"killed {where}")

    killed, wrong = _each(labs, cases, attempt)
    what = f"killed at each file operation ({kind}; {len(operations)} of them, and half-way in writes)"
    return Figure(what, killed, _in_words(wrong), not wrong and killed >= 0.75 * len(cases))


def _at_random(labs: list[Lab], words: list[str], pairs: int) -> Figure:
    """Two kills in a row: the second as the run goes on."""
    begun = time.monotonic()
    expected, _ = _undisturbed(labs[0], words)
    longest = (time.monotonic() - begun) / 2
    draw = random.Random(SEED)
    cases = [[round(draw.uniform(0.1, longest), 3) for _ in range(2)] for _ in range(pairs)]

    def attempt(lab: Lab, moments: list[float]) -> tuple[int, int]:
        killed = lab.begin(words, seconds=moments[0]) == -9
        killed += lab.run(words, seconds=moments[1]) == -9
        return killed, _goes_on(lab, words, expected, f"killed after {moments} s")

    killed, wrong = _each(labs, cases, attempt)
    what = "killed twice at random moments, of training and of going on"
    return Figure(what, killed, _in_words(wrong), not wrong and killed > 0)


def _undisturbed(lab: Lab, words: list[str]) -> tuple[dict, list[str]]:
    for _ in range(2):  # the first one compiles
        if lab.begin(words):
            raise RuntimeError(f"a run that nobody disturbed failed: {lab.said()}")
    return lab.found(), lab.operations()


def _goes_on(lab: Lab, words: list[str], expected: dict, case: str) -> int:
    """1 if it does not, or to another end; says so."""
    if code := lab.run(words):
        return lab.problem(f"{case}, then exit code {code}")
    found = lab.found()
    differs = [name for name, value in expected.items() if found[name] != value]
    if differs:
        extra = sorted(set(found["files"]) ^ set(expected["files"]))
        return lab.problem(f"{case}, then other {' and '.join(differs)} {extra}")
    return 0


def _in_words(wrong: int) -> str:
    return f"{wrong} went on to another end" if wrong else "all went on to the same state, lines and files"


def _files(run: Path) -> list[str]:
    return [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
