"""Products by a library on all cores at once, which keep out of everyone else's settings."""

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from moejax.kernels import blas_threads, cpu_blas
from moejax.kernels.blas_threads import Operand


@pytest.mark.parametrize("flops", [1, 10**9])
def test_every_piece_once(flops):
    done, lock = [], threading.Lock()

    def product(piece):
        with lock:
            done.append(piece)

    blas_threads.run(product, [(i,) for i in range(100)], flops)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "k", "n"), [(5, 3, 4), (1, 3, 4), (5, 1, 4), (5, 3, 1), (1, 1, 1)])
def test_products_of_arrays_and_of_their_transposes(m, k, n, dtype):
    rng = np.random.default_rng(0)
    for turned_a, turned_b in itertools.product([False, True], repeat=2):
        a = rng.normal(size=(k, m + 2) if turned_a else (m, k)).astype(dtype)
        a = a[:, 1 : m + 1].T if turned_a else a  # columns of a wider array, as a part of an outer product
        b = rng.normal(size=(n, k) if turned_b else (k, n)).astype(dtype)
        b = b.T if turned_b else b
        out = np.full((m, n), np.nan, dtype)
        blas_threads.multiplier(Operand.of(a), Operand.of(b), Operand.of(out), dtype)(m, n, k, 0, 0, 0)
        np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-6)


def test_products_with_nothing_to_add_are_zero():
    starts, sizes = np.int32([0, 3]), np.int32([3, 0])
    y = np.full((4, 2), np.nan, np.float32)
    cpu_blas._fill_products(np.zeros((4, 0), np.float32), np.zeros((2, 0, 2), np.float32), starts, sizes, y)
    np.testing.assert_array_equal(y, np.zeros((4, 2)))
    dw = np.full((2, 3, 2), np.nan, np.float32)
    cpu_blas._fill_outers(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), starts, sizes, dw)
    np.testing.assert_array_equal(dw, [np.full((3, 2), 3), np.zeros((3, 2))])


def test_threads_are_the_processors_and_nobody_elses_settings_change():
    """OMP_NUM_THREADS=1 is another library's affair; limits of threads, and where they may run, are the user's."""
    script = """
import os, threading
import jax, jax.numpy as jnp, numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from moejax.kernels import blas_threads
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.kernels.groups import Groups

def others():
    found = [x for x in threadpool_info() if "scipy_openblas32" not in x["filepath"]]
    return sorted((x["filepath"], x["num_threads"]) for x in found)

before, allowed = others(), os.sched_getaffinity(0)
used = set()
plain = blas_threads.multiplier
def noting(*operands):
    multiply = plain(*operands)
    def noted(*product):
        used.add(threading.get_ident())
        seen.append((others(), os.sched_getaffinity(0)))
        multiply(*product)
    return noted
blas_threads.multiplier = noting
seen = []
x, w, sizes = jnp.ones((4000, 256)), jnp.ones((4, 256, 512)), Groups.of(jnp.full(4, 1000, jnp.int32))
for _ in range(3):
    y = jax.block_until_ready(jax.jit(grouped_matmul)(x, w, sizes))
assert (np.asarray(y) == 256).all()
assert len(used) == min(blas_threads.cores(), 8) > 1 or blas_threads.cores() == 1, used
assert all(s == (before, allowed) for s in seen), seen
limits = threadpool_limits(1)  # a user's, set during a product of ours or not, is left and restored by the user alone
limits.restore_original_limits()
assert others() == before
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_modules_can_be_reloaded_while_programs_are_alive():
    """As a notebook's autoreload does: programs compiled before keep working, and new ones work as well."""
    script = """
import gc, importlib, sys
import jax, jax.numpy as jnp, numpy as np
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.kernels.groups import Groups
x, w, sizes = jnp.ones((8, 3)), jnp.ones((2, 3, 4)), jnp.array([5, 3])
old = jax.jit(lambda x, w: grouped_matmul(x, w, Groups.of(sizes)))
old(x, w)
for name in sorted(n for n in sys.modules if n.startswith("moejax")) * 2:
    importlib.reload(sys.modules[name])
gc.collect()
junk = [bytes(200) for _ in range(10000)]
from moejax.kernels.grouped_matmul import grouped_matmul as new
from moejax.kernels.groups import Groups as NewGroups
def of_new(x, w):
    return new(x, w, NewGroups.of(sizes))
for f in (old, jax.jit(of_new), of_new):
    for _ in range(3):
        np.testing.assert_array_equal(f(x, w), np.full((8, 4), 3))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_exception_of_any_thread_arrives_after_all_have_stopped():
    def product(piece):
        raise ZeroDivisionError(piece)

    with pytest.raises(ZeroDivisionError):
        blas_threads.run(product, [(i,) for i in range(8)], 10**9)
    blas_threads.run(lambda piece: None, [(0,)], 10**9)
