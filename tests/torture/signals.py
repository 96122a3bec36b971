"""Real processes get a signal in every phase, from their first import to their last line, and a second one soon after.

Each has to say so at once and how to go on, to save within the chunk of steps that it is in, and to end with the
signal's own exit code. Then the ordinary command must reach the same bits as if nobody had disturbed it.
"""

import bisect
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.torture import small_runs
from tests.torture.figure import Figure
from tests.torture.lab import RUN, Lab, goes_on, undisturbed

SEED = 29
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTHING = "interrupted"  # before anything was saved
STOPPING = "stopping as soon as this chunk of steps is saved"
SENTENCES = {  # how each begins, by what the process was doing
    NOTHING: "before anything was saved",
    "stopped before another step": "before a step",
    STOPPING: "saved",
    "stopped before the test was done": "as it was tested",
    "stopped at once": "as it was saved",
    "the run is finished; draw its report": "as its report was drawn",
}
SOON = 1.0  # seconds in which something has to be said, on a busy machine
# Signals are heeded as in the foreground of a shell, whoever began the torture; the line tells that Python itself runs.
_BEGIN = """
import os, runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.write(1, b"begun\\n")
runpy.run_module("moejax", run_name="__main__", alter_sys=True)
"""


class Moment(NamedTuple):
    """So many seconds after the process printed so many lines."""

    lines: int
    seconds: float


class Line(NamedTuple):
    """What a process printed, and when."""

    at: float
    text: str


class Process:
    """A command of moejax in a process of its own, whose lines are read as they come."""

    def __init__(self, words: list[str], programs: Path):
        keeps = {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _BEGIN, *words],
            env=os.environ | keeps | {"PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self.lines: list[Line] = []
        self._arrived: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for text in self._process.stdout:
            self._arrived.put(Line(time.monotonic(), text.rstrip()))
        self._arrived.put(None)

    def until(self, lines: int | None = None) -> bool:
        """Wait for so many lines, or for the end; False if it ended."""
        while lines is None or len(self.lines) < lines:
            if (line := self._arrived.get(timeout=300)) is None:
                self._arrived.put(None)
                return False
            self.lines.append(line)
        return True

    def signal(self, number: int) -> float:
        """Send it; when that was."""
        now = time.monotonic()
        self._process.send_signal(number)
        return now

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.until()
        return self._process.wait()

    def said(self, after: float = 0.0) -> list[str]:
        """The sentences among the lines after this moment."""
        return [
            line.text.removeprefix("moejax: ")
            for line in self.lines
            if line.at >= after and line.text.startswith("moejax: ")
        ]


def torture(quick: bool) -> Iterator[Figure]:
    """One signal, then two, to runs; then one to the verbs that read a run."""
    with tempfile.TemporaryDirectory(prefix="moejax-signals-") as place, Lab(Path(place), 0) as lab:
        draw = random.Random(SEED)
        lasts, expected = _undisturbed(lab, Path(place))
        yield _to_runs(lab, lasts, expected, [(m, None) for m in _moments(draw, lasts, 3 if quick else 60)])
        twice = [(moment, draw.uniform(0, 0.3)) for moment in _moments(draw, lasts, 2 if quick else 30)]
        yield _to_runs(lab, lasts, expected, twice)
        yield _to_verbs(Path(place), draw, 1 if quick else 6)


def _undisturbed(lab: Lab, place: Path) -> tuple[list[float], dict]:
    """How long after its beginning each line of a run comes, and its end; and what it has to find."""
    expected, _ = undisturbed(lab, RUN)
    return _lasts([*RUN, "--out", str(place / "undisturbed")], place), expected


def _lasts(words: list[str], place: Path, verb: str = "run") -> list[float]:
    process = Process([verb, *words], place / "programs")
    if process.end():
        raise RuntimeError(f"a command that nobody disturbed failed: {process.lines}")
    begun = process.lines[0].at
    return [*(line.at - begun for line in process.lines), time.monotonic() - begun]


def _moments(draw: random.Random, lasts: list[float], count: int) -> list[Moment]:
    """By turns at any second of the whole, and between any two lines."""
    moments = []
    for n in range(count):
        if n % 2 == 0:
            at = draw.uniform(0, lasts[-1])
            line = bisect.bisect_right(lasts[:-1], at) - 1
        else:
            line = draw.randrange(len(lasts) - 1)
            at = draw.uniform(*lasts[line : line + 2])
        moments.append(Moment(line + 1, at - lasts[line]))
    return moments


def _to_runs(lab: Lab, lasts: list[float], expected: dict, cases: list[tuple[Moment, float | None]]) -> Figure:
    """`cases`: when a signal comes, and how many seconds later a second one; None: none does."""
    found = dict.fromkeys(SENTENCES.values(), 0) | {"too early for Python": 0, "too late": 0}
    wrong, latest = 0, 0.0
    for n, (moment, second) in enumerate(cases):
        number, case = SIGNALS[n % 3], f"signal {n % 3} of 3 at {moment}, and after {second}"
        lab.clear()
        process = Process(["run", *RUN, "--out", str(lab.folder)], lab.programs)
        process.until(moment.lines)
        time.sleep(moment.seconds)
        sent = process.signal(number)
        if second is not None:
            time.sleep(second)
            process.signal(number)
        code = process.end()
        how, problem, after = _ended(process, code, number, sent, lab, twice=second is not None)
        found[how] += 1
        latest = max(latest, after)
        if problem:
            print(f"  {case}: {problem}", *(line.text for line in process.lines[-8:]), sep="\n    ", flush=True)
        wrong += bool(problem) or goes_on(lab, RUN, expected, case)
    which = "signals" if cases[0][1] is None else "two signals"
    words = ", ".join(f"{count} {how}" for how, count in found.items() if count)
    good = f"{words}; said within {latest:.2f} s, all went on to the same state, lines and files"
    return Figure(f"{which} to a run", len(cases), f"{wrong} wrong of {words}" if wrong else good, not wrong)


def _ended(
    process: Process, code: int, number: int, sent: float, lab: Lab, *, twice: bool
) -> tuple[str, str | None, float]:
    """In which phase the signal came, what is wrong about the end, and the seconds until something was said."""
    said, texts = process.said(sent), [line.text for line in process.lines]
    if code == 0 and not said:
        return "too late", None, 0.0
    if code == -number and texts == ["begun"]:
        return "too early for Python", None, 0.0
    how = next((how for sentence, how in SENTENCES.items() if any(s.startswith(sentence) for s in said)), None)
    if how is None:
        return "too late", f"exit code {code}, and no sentence for it", 0.0
    answered = next(line.at for line in process.lines if line.at >= sent and line.text.startswith("moejax: "))
    problems = []
    if code != 128 + number:
        problems.append(f"exit code {code}")
    if any("Traceback" in text for text in texts):
        problems.append("a traceback")
    if answered - sent > SOON:
        problems.append(f"nothing was said for {answered - sent:.2f} s")
    goes_on = f"--resume {lab.folder}" if how != "as its report was drawn" else f"report {lab.folder}"
    if how != "before anything was saved" and not any(goes_on in text for text in texts):
        problems.append("how to go on was not said")
    if how == "before anything was saved" and (lab.folder / "checkpoints").exists():
        problems.append("something was saved")
    if how == "saved":
        stopping = next(n for n, text in enumerate(texts) if STOPPING in text)
        steps = [text for text in texts[stopping:] if " step " in text and "epoch" in text]
        if len(steps) > 1:
            problems.append(f"{len(steps)} more chunks of steps")
    return how, "; ".join(problems) or None, answered - sent


def _to_verbs(place: Path, draw: random.Random, each: int) -> Figure:
    """A signal to verbs that read a finished run: each ends at once, and the run is as it was."""
    run, cases, wrong, late = small_runs.text_run(place), 0, 0, 0
    other = shutil.copytree(run, place / "other")
    commands = {
        "report": [str(run)],
        "predict": [str(run), "word1 and 7 more", "--json"],
        "generate": [str(run), "--prompt", "word", "--tokens", "200"],
        "verify": [str(run)],
        "compare": [str(run), str(other), "--out", str(place / "comparison.html")],
        "export": [str(run), "--format", "safetensors", "--out", str(place / "exported")],
    }
    for verb, words in commands.items():
        lasts = _lasts(words, place, verb)
        before = _digests(run)
        for n, moment in enumerate(_moments(draw, lasts, each)):
            process = Process([verb, *words], place / "programs")
            process.until(moment.lines)
            time.sleep(moment.seconds)
            number = SIGNALS[n % 3]
            process.signal(number)
            code, texts = process.end(), [line.text for line in process.lines]
            cases += 1
            early = code == -number and texts == ["begun"]
            late += code == 0
            ended_well = code == 0 or early or (code == 128 + number and texts[-1].endswith("moejax: interrupted"))
            if not ended_well or _digests(run) != before:
                wrong += 1
                print(f"  {verb}, {moment}: exit code {code}", *texts[-8:], sep="\n    ", flush=True)
    said = f"{cases - late} interrupted, {late} done before; the run as it was"
    return Figure(f"signals to {', '.join(commands)}", cases, f"{wrong} wrong" if wrong else said, not wrong)


def _digests(run: Path) -> dict[str, bytes]:
    """All files of a run but its report, which is drawn anew."""
    return {str(f): f.read_bytes() for f in run.rglob("*") if f.is_file() and f.suffix != ".html"}
