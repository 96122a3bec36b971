"""A run is killed before each of its file operations, in the middle of each write, and at random moments.

Then the ordinary command goes on. Parameters, optimiser state and metrics.jsonl must be those of a run that nobody
disturbed, bit for bit but for times, and its folder must hold the same files.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """A folder for runs, and the server that makes them."""

    def __init__(self, room: Path):
        self.room, self.library = room, room / "operations.so"
        built = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self.library), str(HERE / "operations.c"), "-ldl"]
        subprocess.run(built, check=True)
        here = {"LD_PRELOAD": str(self.library), "JAX_COMPILATION_CACHE_DIR": str(room / "programs")}
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

    def run(
        self,
        run: Path,
        words: list[str],
        *,
        number: int = 0,
        half: bool = False,
        seconds: float = 300,
        report: bool = False,
        devices: int = 1,
    ) -> int:
        """Begin the run, or go on with it; the exit code, -9 for one that was killed."""
        words = ["--resume", str(run)] if (run / "config.json").exists() else [*words, "--out", str(run)]
        counted = {"folder": str(run), "number": number, "half": half, "list_to": str(self.room / "operations")}
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        asked = dict(words=words, environment=environment, arm=counted, seconds=seconds, report=report)
        asked |= dict(folder=str(run), digest=str(self.room / "digest"), said=str(self.room / "said"))
        (self.room / "digest").unlink(missing_ok=True)
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def operations(self) -> list[str]:
        """What the last run did, each as `NUMBER NAME PATH`."""
        return (self.room / "operations").read_text(encoding="utf-8").splitlines()

    def found(self, run: Path) -> dict[str, Any]:
        """What a finished run has to have in common with another one."""
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        metrics = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
        files = {re.sub(r"checkpoints/(\d+)/state/.*", r"checkpoints/\1/state", name) for name in _files(run)}
        state = (self.room / "digest").read_text(encoding="utf-8") if (self.room / "digest").exists() else None
        return {"state": state, "metrics": metrics, "files": sorted(files)}

    def said(self) -> str:
        """What the last run printed."""
        return (self.room / "said").read_text(encoding="utf-8", errors="replace")


def torture(quick: bool) -> Iterator[Figure]:
    """Every operation of both kinds of runs, then random moments; a sample of each if `quick`."""
    if shutil.which("cc") is None:
        yield Figure("a run killed at each file operation", 0, "no C compiler here, so not tried", True)
        return
    with tempfile.TemporaryDirectory(prefix="moejax-kills-") as room, Lab(Path(room)) as lab:
        for kind, options in KINDS.items():
            yield _at_operations(lab, kind, [*RUN, *options], quick)
        yield _at_random(lab, [*RUN, *KINDS["all kept, averaged, the best tested"]], 4 if quick else 100)


def _at_operations(lab: Lab, kind: str, words: list[str], quick: bool) -> Figure:
    run, expected, operations = _undisturbed(lab, words)
    cases = [(n, half) for n, op in enumerate(operations, 1) for half in [False] + [True] * (" write " in op)]
    if quick:
        cases = random.Random(SEED).sample(cases, 6)
    wrong = killed = 0
    for number, half in cases:
        shutil.rmtree(run, ignore_errors=True)
        ended = lab.run(run, words, number=number, half=half)
        killed += ended == -9
        if ended not in (0, -9):  # 0: threads made it one operation less, so that none had this number
            wrong += _problem(lab, f"operation {number} ended with exit code {ended}", operations, number)
        case = f"killed {'half-way in' if half else 'before'} {number}"
        wrong += _goes_on(lab, run, words, expected, case, operations)
    what = f"killed at each file operation ({kind}; {len(operations)} of them, and half-way in writes)"
    return Figure(what, killed, _in_words(wrong), not wrong and killed > 0.9 * len(cases))


def _at_random(lab: Lab, words: list[str], times: int) -> Figure:
    run, expected, operations = _undisturbed(lab, words)
    draw, wrong, kills = random.Random(SEED), 0, 0
    while kills < times:
        shutil.rmtree(run, ignore_errors=True)
        moments = [round(draw.uniform(0.1, 2.5), 3) for _ in range(2)]  # two in a row: the second as it goes on
        kills += sum(lab.run(run, words, seconds=moment) == -9 for moment in moments)
        wrong += _goes_on(lab, run, words, expected, f"killed after {moments} s", operations)
    return Figure("killed twice at random moments, of training or going on", kills, _in_words(wrong), not wrong)


def _undisturbed(lab: Lab, words: list[str]) -> tuple[Path, dict, list[str]]:
    run = lab.room / "run"
    for _ in range(2):  # the first one compiles
        shutil.rmtree(run, ignore_errors=True)
        assert lab.run(run, words) == 0, lab.said()
    return run, lab.found(run), lab.operations()


def _goes_on(lab: Lab, run: Path, words: list[str], expected: dict, case: str, operations: list[str]) -> int:
    """1 if it does not, or to another end; says so."""
    if code := lab.run(run, words):
        return _problem(lab, f"{case}, then exit code {code}", operations, 0)
    found = lab.found(run)
    differs = [name for name, value in expected.items() if found[name] != value]
    if differs:
        extra = sorted(set(found["files"]) ^ set(expected["files"]))
        return _problem(lab, f"{case}, then other {' and '.join(differs)} {extra}", operations, 0)
    return 0


def _problem(lab: Lab, what: str, operations: list[str], number: int) -> int:
    where = re.search(r"(?:before|in) (\d+)", what)
    at = int(where[1]) if where else number
    print(f"  {what}: {operations[at - 1] if 0 < at <= len(operations) else ''}\n{lab.said()[-1500:]}")
    return 1


def _in_words(wrong: int) -> str:
    return f"{wrong} went on to another end" if wrong else "all went on to the same state, lines and files"


def _files(run: Path) -> list[str]:
    return [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
