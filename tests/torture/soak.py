"""A run that goes on and on, and then a server of it that is asked and asked: what they hold and take must not grow.

MOEJAX_SOAK_MINUTES says how long, in place of 30. Memory, files and threads are seen from outside, by /proc.
"""

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.torture.figure import Figure
from tests.torture.lab import RUN

SEED = 23
GROWTH = 0.02  # of memory, from the warm-up's end on
SLOWER = 1.25  # the last third may take so many times as long as the first, by the processor's clock
LEAST = 15  # samples
CPU = {"JAX_PLATFORMS": "cpu"}
SPARE = 3  # files or threads, of a pool that fills up late
LONG = {
    # A line of metrics.jsonl for each epoch of 100 steps, and every 400 of them an evaluation and a checkpoint: in each
    # of these TensorStore loses 50 kB, some names of every array, as 0.1.8x does.
    **{"--data.limit": "400", "--train.batch_size": "4", "--train.chunk": "100"},
    **{"--train.epochs": "1000000", "--train.evaluate_every": "400"},
}


class Sample(NamedTuple):
    """What a process holds: bytes of memory of its own, files and threads; seconds of processors it took; work done."""

    memory: int
    files: int
    threads: int
    seconds: float
    done: int


def torture(quick: bool) -> Iterator[Figure]:
    """A run for most of the time, its server for the rest; `quick`: 20 seconds of both, in which memory may warm up."""
    if not Path("/proc/self/smaps_rollup").exists():
        yield Figure("a long run", 0, "no /proc here, so not tried", True)
        return
    minutes = 20 / 60 if quick else float(os.environ.get("MOEJAX_SOAK_MINUTES", "30"))
    growth = 0.5 if quick else GROWTH
    with tempfile.TemporaryDirectory(prefix="moejax-soak-") as place:
        run = Path(place) / "run"
        words = itertools.chain(*(dict(zip(RUN[::2], RUN[1::2], strict=True)) | LONG | {"--out": str(run)}).items())
        with _started(Path(place), "moejax.run", *words) as process:
            _until(lambda: _epochs(run) > 5, process)
            samples = _watched(process, 45 * minutes, lambda: _epochs(run))
            code = _ended(process)
        if code != 128 + signal.SIGTERM:
            raise RuntimeError(f"the long run ended with exit code {code}")
        yield _memory("a run that goes on and on: memory of its own", samples, growth)
        yield _handles("its files and threads", samples)
        yield _pace("its time for an epoch, with all that is saved", samples)
        with _started(Path(place), "moejax", "serve", str(run), "--port", "0") as process:
            said = Path(place) / "said"
            _until(lambda: "http" in said.read_text(encoding="utf-8"), process)
            port = int(re.search(r":(\d+)", said.read_text(encoding="utf-8"))[1])
            draw, tens = random.Random(SEED), itertools.count(1)
            _ask(port, draw)  # the first questions compile
            samples = _watched(process, 15 * minutes, lambda: _ask(port, draw) or next(tens))
            _ended(process)
        yield _memory("a server that is asked and asked: memory of its own", samples, growth)
        yield _handles("its files and threads", samples)
        yield _pace("its time for ten answers", samples)


@contextlib.contextmanager
def _started(place: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A process, which does not outlive the block."""
    with open(place / "said", "wb") as said:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=said, stderr=said, env=os.environ | CPU)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _until(true: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("a long-lived process did not begin")
        time.sleep(0.1)


def _watched(process: subprocess.Popen, seconds: float, work: Callable[[], int]) -> list[Sample]:
    """Samples of so many seconds, two a second at most, but a few at least; `work` says how much is done by then."""
    samples, begun = [], time.monotonic()
    while time.monotonic() < begun + seconds or len(samples) < LEAST:
        samples.append(_sample(process.pid, work()))
        time.sleep(0.5)
    return samples


def _sample(process: int, done: int) -> Sample:
    folder = Path(f"/proc/{process}")
    memory = re.search(r"Pss_Anon: +(\d+) kB", (folder / "smaps_rollup").read_text(encoding="ascii"))
    ticks = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    files, threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
    return Sample(1024 * int(memory[1]), files, threads, seconds, done)


def _ended(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(120)


def _epochs(run: Path) -> int:
    """How many are done."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b'"train"') if file.exists() else 0


def _ask(port: int, draw: random.Random) -> None:
    """Ask ten things, each of another length."""
    for _ in range(10):
        text = " ".join(draw.choices(["a", "token", "and its", "experts"], k=draw.randint(1, 30)))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/api/predict", json.dumps({"text": text}), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        if reply.status != 200:
            raise RuntimeError(f"the server said {content!r}")


def _memory(what: str, samples: Sequence[Sample], most: float) -> Figure:
    """A line through the samples after the first fifth: how much it rises, as a share of where it begins."""
    kept = np.array([sample.memory for sample in samples[len(samples) // 5 :]])
    slope, begin = np.polyfit(np.arange(len(kept)), kept, 1)
    growth = slope * len(kept) / begin
    return Figure(what, len(samples), f"{begin / 1e6:.0f} MB, then {growth:+.2%}", bool(growth <= most))


def _handles(what: str, samples: Sequence[Sample]) -> Figure:
    """The most of the last third against the most before: a pool of threads fills up as it is used."""
    cut = 2 * len(samples) // 3
    before, last = (
        [max(getattr(sample, name) for sample in part) for name in ("files", "threads")]
        for part in (samples[:cut], samples[cut:])
    )
    found = f"at most {before[0]} files and {before[1]} threads, then {last[0]} and {last[1]}"
    return Figure(what, len(samples), found, all(n <= most + SPARE for n, most in zip(last, before, strict=True)))


def _pace(what: str, samples: Sequence[Sample]) -> Figure:
    """Seconds of processors for a piece of work: in the last third against the first third after a fifth."""
    kept = samples[len(samples) // 5 :]
    first, last = kept[: len(kept) // 3], kept[-(len(kept) // 3) :]
    before, now = ((part[-1].seconds - part[0].seconds) / (part[-1].done - part[0].done) for part in (first, last))
    done = samples[-1].done - samples[0].done
    return Figure(what, done, f"{1000 * before:.0f} ms, then {1000 * now:.0f}", now <= SLOWER * before)
