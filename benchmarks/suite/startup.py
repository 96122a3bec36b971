"""How long until something happens?  python -m benchmarks startup   (2 minutes on two CPU cores)

Times `import moejax`, and the main job from typing the command to its first line of progress: with nothing compiled
yet, and again with the compiled programs of that first run kept. Each in a fresh process, the mean of two.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from moejax.errors import UserError
from moejax.report.markdown import markdown

TURNS = 2


def import_seconds() -> float:
    """A fresh interpreter that imports moejax, less one that imports nothing."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return run("import moejax") - run("pass")


def first_progress_seconds(preset: str, cache: str) -> float:
    """From starting the process to the first line that reports trained steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "-m", "moejax.run", "--config", preset, "--out", f"{folder}/run"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", env=environment
        ) as process:
            line = next((line for line in process.stdout if line.startswith("epoch")), None)
            seconds = time.perf_counter() - start
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    if line is None:
        raise UserError(f"The run of {preset} ended before its first line of progress; what it said stands above.")
    print(f"  {seconds:5.1f} s  {line.strip()}", flush=True)
    return seconds


def table(rows: list[dict]) -> str:
    """One line a time."""
    return markdown(["from typing the command", "seconds"], [[r["what"], f"{r['seconds']:.2f}"] for r in rows])


def run(quick: bool) -> list[dict]:
    """Time the import, and the first steps of three presets."""
    turns = 1 if quick else TURNS
    rows = [{"what": "import moejax", "seconds": statistics.mean(import_seconds() for _ in range(turns))}]
    for preset in ("mnist_tiny",) if quick else ("mnist_soft", "mnist_sparse", "text_sparse"):
        cold, warm = [], []
        for _ in range(turns):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(first_progress_seconds(preset, cache))
                warm.append(first_progress_seconds(preset, cache))
        rows.append({"what": f"{preset}, first steps, nothing compiled", "seconds": statistics.mean(cold)})
        rows.append({"what": f"{preset}, first steps, compiled before", "seconds": statistics.mean(warm)})
    return rows
