"""Many products of NumPy at once, one on each core.

NumPy's library of products (BLAS) would take one product after the other and all cores for each; its threads then wait
for the next one at full speed, for longer than a layer takes, and keep the cores from XLA. Here it keeps to the thread
that calls, and there are as many such threads as it would have had, the caller's among them.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController


@functools.cache
def cores() -> int:
    """How many products are made at once: as many as the library had threads."""
    return max((library["num_threads"] for library in _blas().info()), default=1)


def run(product: Callable[[tuple], None], pieces: Iterable[tuple]) -> None:
    """`product` of each of the pieces, in any order; what is no number shows in the result, without a warning."""
    waiting = iter(pieces)  # whoever is free takes the next
    threads = _threads()
    with _library_in_one_thread() as first:
        # Several devices in one process call from a thread each, and have no core to spare.
        others = [threads.submit(_work, product, waiting) for _ in range(cores() - 1)] if first else []
        try:
            _work(product, waiting)
        finally:
            # A thread that has not woken up by now finds nothing left to do.
            started = [other for other in others if not other.cancel()]
            wait(started)
        for other in started:
            other.result()  # raises what it raised


def _work(product: Callable[[tuple], None], waiting: Iterator[tuple]) -> None:
    with np.errstate(all="ignore"):  # a setting of the thread
        for piece in waiting:
            product(piece)


_calls = threading.Lock()  # guards the two below; the number of threads is the library's, not a caller's
_running = 0
_unlimited = None


@contextmanager
def _library_in_one_thread() -> Iterator[bool]:
    """Of calls that overlap, the first limits it and the last sets it free; tells whether this is the first."""
    global _running, _unlimited
    with _calls:
        _running += 1
        if first := _running == 1:
            _unlimited = _blas().limit(limits=1)
    try:
        yield first
    finally:
        with _calls:
            _running -= 1
            if not _running:
                _unlimited.restore_original_limits()


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="moejax-blas")
