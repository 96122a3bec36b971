"""Timing that a noisy machine can bear: candidates take turns in one process, and ratios are taken within a turn."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from numpy import ndarray


def interleave(calls: Mapping[str, Callable[[], object]], turns: int, rest: float = 0.0) -> dict[str, ndarray]:
    """Seconds of each call in each turn, after one turn to warm up; a call's result is waited for.

    `rest`: seconds before each call. Another library's threads may keep a core busy for a while after its work is done,
    in the hope of more, and would slow down who comes next.
    """
    seconds = {name: np.zeros(turns + 1) for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            time.sleep(rest)
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][turn] = time.perf_counter() - start
    return {name: times[1:] for name, times in seconds.items()}


def ratio(of: ndarray, to: ndarray) -> dict[str, float]:
    """Median, and quartiles, of the ratios within each turn."""
    low, median, high = np.percentile(of / to, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}
