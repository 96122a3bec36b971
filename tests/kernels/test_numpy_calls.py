"""NumPy's functions in compiled programs: the program's own arrays, errors that arrive, programs kept on disk."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.kernels import numpy_calls
from moejax.kernels.numpy_calls import called_by_name, numpy_call


@called_by_name("moejax_test_add_columns")
def add_columns(x, number, out):
    np.add.reduce(x, axis=1, out=out)
    out += number


@called_by_name("moejax_test_refuse")
def refuse(x, out):
    raise ValueError(f"{len(x)} is no good")


@called_by_name("moejax_test_remember_where")
def remember_where(x, out):
    remember_where.seen.append((x.ctypes.data, out.ctypes.data))
    out[:] = x


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4), (3, 0)])
def test_a_function_between_other_operations(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    @jax.jit
    def program(x):
        return 2 * numpy_call(add_columns, jax.ShapeDtypeStruct(x.shape[:1], x.dtype), x + 1, jnp.int32(5))

    np.testing.assert_array_equal(program(x), 2 * ((x + 1).sum(1) + 5))


def test_an_exception_becomes_the_programs_error():
    program = jax.jit(lambda x: numpy_call(refuse, jax.ShapeDtypeStruct(x.shape, x.dtype), x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: 3 is no good"):
        jax.block_until_ready(program(jnp.ones(3)))


def test_the_arrays_are_the_programs_own():
    remember_where.seen = []
    x = jax.block_until_ready(jnp.ones(1000))
    y = jax.block_until_ready(
        jax.jit(lambda x: numpy_call(remember_where, jax.ShapeDtypeStruct(x.shape, x.dtype), x))(x)
    )
    assert remember_where.seen == [(x.unsafe_buffer_pointer(), y.unsafe_buffer_pointer())]


@called_by_name("moejax_test_types")
def note_type(x, out):
    note_type.seen = x.dtype
    out[:] = x


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "float16", "float32"])
def test_numbers_keep_their_type(dtype):
    x = jnp.array([0, 1, 1], dtype)
    y = jax.jit(lambda x: numpy_call(note_type, jax.ShapeDtypeStruct(x.shape, x.dtype), x))(x)
    np.testing.assert_array_equal(y, x)
    assert note_type.seen == y.dtype == dtype


def test_another_version_of_the_interface_is_not_used(monkeypatch):
    monkeypatch.setattr(numpy_calls, "_MAJOR", 7)
    with pytest.raises(jax.errors.JaxRuntimeError, match="version 0, and moejax knows 7"):
        numpy_calls._register("moejax_test_of_version")


def test_programs_with_such_calls_are_kept_on_disk_and_work_in_the_next_process(tmp_path):
    code = """
import jax, jax.numpy as jnp, numpy as np
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.kernels.groups import Groups
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
y = jax.jit(lambda x, w, sizes: grouped_matmul(x, w, Groups.of(sizes)))(
    jnp.ones((8, 3)), jnp.ones((2, 3, 4)), jnp.array([5, 3])
)
np.testing.assert_array_equal(y, np.full((8, 4), 3))
print(sum("cache_hits" in event for event in found), sum("cache_misses" in event for event in found))
"""
    keep = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    hits = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, env=os.environ | keep, stdout=subprocess.PIPE, encoding="utf-8"
        ).stdout.split()
        for _ in range(2)
    ]
    (hits_before, misses), (hits_then, none) = (map(int, one) for one in hits)
    assert hits_before == 0 < misses == hits_then
    assert none == 0
