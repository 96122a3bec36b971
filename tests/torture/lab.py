"""A place for small runs that are disturbed, go on by the ordinary command, and have to reach the undisturbed end."""

import contextlib
import functools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moejax.kernels.blas_threads import cores
from tests.torture.figure import Figure

HERE = Path(__file__).parent
RUN = [
    *("--config", "text_tiny", "--data.name", "text", "--data.length", "16", "--data.limit", "64"),
    *("--data.evaluation_limit", "16", "--data.dir", str(HERE.parent.parent / "README.md")),
    *("--model.width", "8", "--model.depth", "1", "--moe.hidden", "8", "--moe.num_experts", "2"),
    *("--train.epochs", "3", "--train.batch_size", "16", "--train.chunk", "2", "--train.evaluation_batch", "16"),
]
KINDS = {
    "the latest and the best kept": [],
    "all kept, averaged, the best tested": [
        *("--train.checkpoints", "all", "--train.average", "0.5", "--train.tested", "best")
    ],
}
TIMES = ("seconds", "examples_per_second")


def needs_compiler(torture: Callable[[bool], Iterator[Figure]]) -> Callable[[bool], Iterator[Figure]]:
    """A part that has labs: where they cannot be built it says so."""

    @functools.wraps(torture)
    def part(quick: bool) -> Iterator[Figure]:
        if shutil.which("cc"):
            yield from torture(quick)
        else:
            yield Figure("all of it", 0, "no C compiler here, so not tried", True)

    return part


class Lab:
    """A folder for runs, and the server that makes them; labs in one place share their programs."""

    def __init__(self, place: Path, number: int, *, inside: Sequence[str] = ()):
        """`inside`: the words of a program that runs the server's."""
        self.room, library = place / str(number), place / f"operations{number}.so"
        self.folder, self.programs = self.room / "run", place / "programs"
        self.seen = self.folder  # where it is found from here
        self.room.mkdir()
        built = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "operations.c"), "-ldl"]
        subprocess.run(built, check=True)
        here = {"LD_PRELOAD": str(library), "JAX_COMPILATION_CACHE_DIR": str(self.programs)}
        quiet = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONWARNINGS": "ignore"}
        self.server = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.torture.server"],
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
        self.clear()
        return self.run(words, **how)

    def clear(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.seen, ignore_errors=True)

    def run(
        self,
        words: list[str],
        *,
        number: int = 0,
        half: bool = False,
        error: int = 0,
        within: Path | None = None,
        reports: bool = False,
        environment: Mapping[str, str | None] | None = None,
        full: Sequence[str] = (),
        begins: bool = False,
        way: Sequence[str] = (),
        seconds: float = 300,
    ) -> int:
        """Begin the run, or go on with it; the exit code, -9 for one that was killed.

        Args:
          number: of the file operation before which it is killed, or from which on all fail; 0: nothing happens.
          half: first do half of that operation.
          error: with which operations fail; 0: it is killed.
          within: the folder of these operations, by default the run's.
          reports: whether its report is drawn, which takes as long as all else.
          environment: variables that have these values, or are not set.
          full: of `out` and `err` those that go to a device that is full.
          begins: even where there is a run.
          way: words that follow, whether it begins or goes on.
          seconds: after which it is killed.
        """
        resumes = (self.seen / "config.json").exists() and not begins
        words = ["--resume", str(self.folder)] if resumes else [*words, "--out", str(self.folder)]
        words = [*words, *way]
        armed = {"folder": within or self.folder, "number": number, "half": half, "error": error}
        asked = {"words": words, "arm": armed | {"list_to": self.room / "operations"}, "reports": reports}
        asked |= {"folder": self.folder, "seconds": seconds, "environment": environment or {}}
        for name in ("digest", "out", "err"):
            (self.room / name).unlink(missing_ok=True)
            asked[name] = "/dev/full" if name in full else self.room / name
        return self.ask(asked)

    def ask(self, asked: Mapping[str, Any]) -> int:
        """What the server answers."""
        print(json.dumps(asked, default=str), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def operations(self) -> list[str]:
        """What the last run did, each as `NUMBER NAME PATH`."""
        return (self.room / "operations").read_text(encoding="utf-8").splitlines()

    def found(self) -> dict[str, Any]:
        """What a finished run has to have in common with another one."""
        return finished(self.seen, (self.room / "digest").read_text(encoding="utf-8"))

    def said(self, *streams: str) -> str:
        """What the last run printed, on `out` or `err`; without: on both."""
        files = [self.room / name for name in streams or ("out", "err")]
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists())

    def problem(self, what: str) -> int:
        """Say it, with what the last run printed; 1."""
        print(f"  {what}\n{self.said()[-1500:]}", flush=True)
        return 1


@contextlib.contextmanager
def open_labs() -> Iterator[list[Lab]]:
    """As many as there are cores, in one place, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="moejax-torture-") as place, contextlib.ExitStack() as stack:
        yield [stack.enter_context(Lab(Path(place), number)) for number in range(cores())]


def each(labs: list[Lab], cases: Iterable, attempt: Callable[[Lab, Any], tuple[int, int]]) -> tuple[int, int]:
    """Sums of (disturbed, wrong) over the cases, each of which is tried in the lab that is free."""
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
    return sum(disturbed for disturbed, _ in found), sum(wrong for _, wrong in found)


def finished(run: Path, state: str) -> dict[str, Any]:
    """What a finished run, whose state has this digest, has to have in common with another one.

    That is all but its report, which only reads it.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    files = {re.sub(r"checkpoints/(\d+)/state/.*", r"checkpoints/\1/state", name) for name in _files(run)}
    files = {name for name in files if not name.startswith(("report.html", "figures/"))}
    return {"state": state, "metrics": metrics, "files": sorted(files)}


def undisturbed(lab: Lab, words: list[str]) -> tuple[dict, list[str]]:
    """What a run finds that nobody disturbs, and its file operations."""
    for _ in range(2):  # the first one compiles
        if lab.begin(words):
            raise RuntimeError(f"a run that nobody disturbed failed: {lab.said()}")
    return lab.found(), lab.operations()


def goes_on(lab: Lab, words: list[str], expected: dict, case: str) -> int:
    """1 if it does not, or to another end; says so."""
    if code := lab.run(words):
        return lab.problem(f"{case}, then exit code {code}")
    return is_as(lab, expected, case)


def is_as(lab: Lab, expected: dict, case: str) -> int:
    """1 if the finished run is not as expected; says so."""
    found = lab.found()
    differs = [name for name, value in expected.items() if found[name] != value]
    if differs:
        extra = sorted(set(found["files"]) ^ set(expected["files"]))
        return lab.problem(f"{case}, then other {' and '.join(differs)} {extra}")
    return 0


def _files(run: Path) -> list[str]:
    return [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
