"""Real processes get a signal in every phase, from their first import to their last line, and a second one soon after.

Each has to say so at once and how to go on, to save within the chunk of steps that it is in, and to end with the
signal's own exit code. Then the ordinary command must reach the same bits as if nobody had disturbed it.
"""

import bisect
import math
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moejax.interrupt import SIGNALS
from tests.torture import small_runs
from tests.torture.figure import Figure
from tests.torture.lab import RUN, Lab, each, goes_on, needs_compiler, open_labs, undisturbed

SEED = 29
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
DONE = "after its last line"  # where it is interrupted as any program is
NO_SENTENCE = ("too early for Python", "too late")  # what it was doing where none is said
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


class End(NamedTuple):
    """What a run was doing when a signal came, what is wrong about its end, and seconds until it said something."""

    phase: str
    problems: list[str]
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
        self.over = math.inf  # when it ended
        self._arrived: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for text in self._process.stdout:
            self._arrived.put(Line(time.monotonic(), text.rstrip()))
        self.over = time.monotonic()
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

    def signal_at(self, moment: Moment, number: int) -> float:
        """Send it then; when that was."""
        self.until(moment.lines)
        time.sleep(moment.seconds)
        return self.signal(number)

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


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """One signal, then two, to runs; then one to the verbs that read a run."""
    draw = random.Random(SEED)
    with open_labs() as labs:
        expected, _ = undisturbed(labs[0], RUN)
        alone = _lasts(["run", *RUN, "--out", str(labs[0].room / "alone")], labs[0].programs)
        once = [(moment, None) for moment in _moments(draw, alone, 3 if quick else 60)]
        yield _to_runs("one signal to a run", labs, expected, once)
        twice = [(moment, draw.uniform(0, 0.3)) for moment in _moments(draw, alone, 2 if quick else 30)]
        yield _to_runs("two signals to a run", labs, expected, twice)
        yield _to_verbs(labs[0].room, labs[0].programs, draw, 1 if quick else 6)


def _lasts(words: list[str], programs: Path) -> list[float]:
    """How long after its beginning each line of a command comes, and its end."""
    process = Process(words, programs)
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


def _to_runs(what: str, labs: list[Lab], expected: dict, moments: list[tuple[Moment, float | None]]) -> Figure:
    """`moments`: when a signal comes, and how many seconds later a second one; None: none does."""
    ends: list[End] = []

    def attempt(lab: Lab, case: tuple[int, tuple[Moment, float | None]]) -> tuple[int, int]:
        n, (moment, second) = case
        number = SIGNALS[n % len(SIGNALS)]
        lab.clear()
        process = Process(["run", *RUN, "--out", str(lab.folder)], lab.programs)
        sent = process.signal_at(moment, number)
        if second is not None:
            time.sleep(second)
            process.signal(number)
        end = _ended(process, process.end(), number, sent, lab)
        ends.append(end)
        name = f"{number.name} at {moment}, and after {second}"
        if end.problems:
            print(f"  {name}: {end.problems}", *(line.text for line in process.lines[-8:]), sep="\n    ", flush=True)
        return 1, bool(end.problems) or goes_on(lab, RUN, expected, name)

    tried, wrong = each(labs, enumerate(moments), attempt)
    counts = Counter(end.phase for end in ends)
    phases = ", ".join(
        f"{counts[phase]} {phase}" for phase in (*SENTENCES.values(), DONE, *NO_SENTENCE) if counts[phase]
    )
    latest = max(end.seconds for end in ends)
    good = f"{phases}; said within {latest:.2f} s, all went on to the same state, lines and files"
    return Figure(what, tried, f"{wrong} wrong of {phases}" if wrong else good, not wrong)


def _ended(process: Process, code: int, number: int, sent: float, lab: Lab) -> End:
    said, texts = process.said(sent), [line.text for line in process.lines]
    if code == 0 and not said:
        return End("too late", _unheard(process, sent), 0.0)
    if code == -number and texts == ["begun"]:
        return End("too early for Python", [], 0.0)
    phase = next((phase for sentence, phase in SENTENCES.items() if any(s.startswith(sentence) for s in said)), None)
    if phase is None:
        return End("too late", [f"exit code {code}, and no sentence for it"], 0.0)
    if phase == SENTENCES[NOTHING] and any(text.startswith("report: ") for text in texts):
        phase = DONE
    seconds = next(line.at for line in process.lines if line.at >= sent and line.text.startswith("moejax: ")) - sent
    problems = []
    if code != 128 + number:
        problems.append(f"exit code {code}")
    if any("Traceback" in text for text in texts):
        problems.append("a traceback")
    if seconds > SOON:
        problems.append(f"nothing was said for {seconds:.2f} s")
    goes_on = f"--resume {lab.folder}" if phase != "as its report was drawn" else f"report {lab.folder}"
    if phase not in (SENTENCES[NOTHING], DONE) and not any(goes_on in text for text in texts):
        problems.append("how to go on was not said")
    if phase == SENTENCES[NOTHING] and (lab.folder / "checkpoints").exists():
        problems.append("something was saved")
    if phase == "saved":
        stopping = next(n for n, text in enumerate(texts) if STOPPING in text)
        steps = [text for text in texts[stopping:] if " step " in text and "epoch" in text]
        if len(steps) > 1:
            problems.append(f"{len(steps)} more chunks of steps")
    return End(phase, problems, seconds)


def _unheard(process: Process, sent: float) -> list[str]:
    """What is wrong about a process that ended as if there had been no signal: one that comes too late is followed by
    the end.
    """
    seconds = process.over - sent
    return [f"it went on for {seconds:.2f} s as if there had been no signal"] * (seconds > SOON)


def _to_verbs(place: Path, programs: Path, draw: random.Random, count: int) -> Figure:
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
        lasts = _lasts([verb, *words], programs)
        before = _digests(run)
        for n, moment in enumerate(_moments(draw, lasts, count)):
            process = Process([verb, *words], programs)
            number = SIGNALS[n % len(SIGNALS)]
            sent = process.signal_at(moment, number)
            code, texts = process.end(), [line.text for line in process.lines]
            cases += 1
            early = code == -number and texts == ["begun"]
            late += code == 0
            interrupted = code == 128 + number and texts[-1].endswith("moejax: interrupted")
            ended_well = early or interrupted or (code == 0 and not _unheard(process, sent))
            if not ended_well or _digests(run) != before:
                wrong += 1
                print(f"  {verb}, {moment}: exit code {code}", *texts[-8:], sep="\n    ", flush=True)
    said = f"{cases - late} interrupted, {late} done before; the run as it was"
    return Figure(f"signals to {', '.join(commands)}", cases, f"{wrong} wrong" if wrong else said, not wrong)


def _digests(run: Path) -> dict[str, bytes]:
    """All files of a run but its report, which is drawn anew."""
    return {str(f): f.read_bytes() for f in run.rglob("*") if f.is_file() and f.suffix != ".html"}
