"""Benchmarks at small shapes, two at a time: to see that they work, not how fast."""

import contextlib
import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from benchmarks.harness import memory
from benchmarks.harness.measure import failed


def run(benchmarks: list[str]) -> list[bool]:
    """Print what each of them prints; whether each failed."""
    results, start_afresh = [], multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, start_afresh, initializer=memory.keep_freed) as pool:
        for text, result in pool.map(_printed, benchmarks):
            print(text, end="", flush=True)
            results.append(result)
    return results


def _printed(name: str) -> tuple[str, bool]:
    """What a quick benchmark prints, and whether it failed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        result = failed(name, quick=True)
    return text.getvalue(), result
