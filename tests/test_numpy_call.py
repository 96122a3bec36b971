"""NumPy's functions in compiled programs: the program's own arrays, many at once, and errors that arrive."""

import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from moejax import parallel_blas
from moejax.numpy_call import numpy_call


def add_columns(x, number, out):
    np.add.reduce(x, axis=1, out=out)
    out += number


def refuse(x, out):
    raise ValueError(f"{len(x)} is no good")


def remember_where(x, out):
    remember_where.seen.append((x.ctypes.data, out.ctypes.data))
    out[:] = x


columns = numpy_call("test_add_columns", add_columns)
refused = numpy_call("test_refuse", refuse)
remembered = numpy_call("test_remember_where", remember_where)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4), (3, 0)])
def test_a_function_between_other_operations(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    @jax.jit
    def program(x):
        return 2 * columns(jax.ShapeDtypeStruct(x.shape[:1], x.dtype), x + 1, jnp.int32(5))

    np.testing.assert_array_equal(program(x), 2 * ((x + 1).sum(1) + 5))


def test_an_exception_becomes_the_programs_error():
    program = jax.jit(lambda x: refused(jax.ShapeDtypeStruct(x.shape, x.dtype), x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: 3 is no good"):
        jax.block_until_ready(program(jnp.ones(3)))


def test_the_arrays_are_the_programs_own():
    remember_where.seen = []
    x = jax.block_until_ready(jnp.ones(1000))
    y = jax.block_until_ready(jax.jit(lambda x: remembered(jax.ShapeDtypeStruct(x.shape, x.dtype), x))(x))
    assert remember_where.seen == [(x.unsafe_buffer_pointer(), y.unsafe_buffer_pointer())]


def test_every_piece_once_and_the_library_has_its_threads_back():
    before = [library["num_threads"] for library in ThreadpoolController().info()]
    done, lock = [], threading.Lock()

    def product(piece):
        with lock:
            done.append(piece[0])

    parallel_blas.run(product, [(i,) for i in range(100)])
    assert sorted(done) == list(range(100))
    assert [library["num_threads"] for library in ThreadpoolController().info()] == before


def test_how_many_cores_is_not_asked_while_the_library_is_limited():
    """Two first calls that overlapped found one core, for good, on most runs."""
    script = """
from threadpoolctl import threadpool_info, threadpool_limits
import numpy as np
from moejax.dispatch import grouped_numpy
threads = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
with threadpool_limits(1):
    assert len(grouped_numpy._pieces(np.array([1000]), np.array([1000]))) == 2 * threads
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say which core a thread is on")
def test_other_threads_keep_off_the_callers_core_and_the_caller_may_go_anywhere():
    allowed, where = os.sched_getaffinity(0), []
    if len(allowed) < 2 or parallel_blas.CORES < 2:
        pytest.skip("one core")

    def product(piece):
        where.append((threading.get_ident(), os.sched_getaffinity(0)))
        time.sleep(0.05)

    for _ in range(3):
        parallel_blas.run(product, [(i,) for i in range(2 * parallel_blas.CORES)])
    me = threading.get_ident()
    assert all(cores == allowed for thread, cores in where if thread == me)
    last = [cores for thread, cores in where if thread != me][-1]
    assert len(last) == len(allowed) - 1
    assert os.sched_getaffinity(0) == allowed


def test_an_exception_of_any_thread_arrives_after_all_have_stopped():
    def product(piece):
        raise ZeroDivisionError(piece)

    with pytest.raises(ZeroDivisionError):
        parallel_blas.run(product, [(i,) for i in range(8)])
    parallel_blas.run(lambda piece: None, [(0,)])
