"""Many products of NumPy at once, one on each core.

NumPy's library of products (BLAS) would take one product after the other and all cores for each; its threads then wait
for the next one at full speed, for longer than a layer takes, and keep the cores from XLA. Here it keeps to the thread
that calls, and there are as many such threads as it would have had, the caller's among them.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import ThreadpoolController

_BLAS = ThreadpoolController().select(user_api="blas")

# How many products are made at once: as many as the library has threads. Asked before it is limited for the first time,
# which a second thread may do at any moment.
CORES = max((library["num_threads"] for library in _BLAS.info()), default=1)

# XLA calls for several products at once. Each takes all cores in its turn, and the number of the library's threads is
# not a caller's.
_one_at_a_time = threading.Lock()


def run(product: Callable[[tuple], None], pieces: Iterable[tuple]) -> None:
    """`product` of each of the pieces, in any order; what is no number shows in the result, without a warning."""
    waiting = iter(pieces)  # whoever is free takes the next
    with _one_at_a_time, _BLAS.limit(limits=1):
        _keep_off_the_callers_core()
        others = [_THREADS.submit(_work, product, waiting) for _ in range(CORES - 1)]
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


_CORES_CAN_BE_CHOSEN = hasattr(os, "sched_setaffinity")
_C = ctypes.CDLL(None) if _CORES_CAN_BE_CHOSEN else None
_ids: list[int] = []  # of the threads, as the system knows them
_kept_off: tuple[int, int] | None = None  # a core, and how many threads


def _keep_off_the_callers_core() -> None:
    """A thread that wakes up on that core would wait for its turn there, 3 ms on Linux, with another core free."""
    global _kept_off
    if not _CORES_CAN_BE_CHOSEN:
        return
    core = _C.sched_getcpu()
    others = os.sched_getaffinity(0) - {core}
    if others and _kept_off != (core, len(_ids)):
        for thread in _ids:
            os.sched_setaffinity(thread, others)
        _kept_off = core, len(_ids)


# One pool for good: of two, made by calls that overlap, one would go and its threads with it. No thread starts yet.
_THREADS = ThreadPoolExecutor(
    max(1, CORES - 1), thread_name_prefix="moejax-blas", initializer=lambda: _ids.append(threading.get_native_id())
)
