"""Many products of NumPy at once, one on each core.

NumPy's library of products (BLAS) would take one product after the other and all cores for each; its threads then wait
for the next one at full speed, for longer than a layer takes, and keep the cores from XLA. Here it keeps to the thread
that calls, and there are as many such threads as it would have had, the caller's among them.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import ThreadpoolController

_one_at_a_time = threading.Lock()  # the number of threads is the library's, not a caller's


@functools.cache
def cores() -> int:
    """How many products are made at once: as many as the library had threads."""
    return max((library["num_threads"] for library in _blas().info()), default=1)


def run(product: Callable[[tuple], None], pieces: Iterable[tuple]) -> None:
    """`product` of each of the pieces, in any order; what is no number shows in the result, without a warning."""
    waiting = iter(pieces)  # whoever is free takes the next

    def work() -> None:
        with np.errstate(all="ignore"):  # a setting of the thread
            for piece in waiting:
                product(piece)

    threads = _threads()
    with _one_at_a_time, _blas().limit(limits=1):
        others = [threads.submit(work) for _ in range(cores() - 1)]
        try:
            work()
        finally:
            wait(others)
        for other in others:
            other.result()  # raises what it raised


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="moejax-blas")
