"""Products of narrow numbers: the exact sums of what the rounded numbers give, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.kernels.bfloat16 import as_bits, from_bits, has_units, lists_units, matmul, matmul_transposed, outer


def draw(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def exact(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
def test_products_and_the_derivative_are_those_of_float64(lead, dtype):
    x, w, dy = draw(0, *lead, 4, dtype=dtype), draw(1, 4, 6, dtype=dtype), draw(2, *lead, 6, dtype=dtype)

    @jax.jit
    def everything(x, w, dy):
        y, pull = jax.vjp(matmul, x, w)
        return y, pull(dy.astype(jnp.float32)), matmul_transposed(dy, w), outer(x, dy)

    y, (dx, dw), back, product = everything(x, w, dy)
    assert y.dtype == back.dtype == product.dtype == jnp.float32
    assert dx.dtype == dw.dtype == jnp.dtype(dtype)
    (x, w, dy) = exact(x, w, dy)
    # Products of two bfloat16 are exact in float32; what is rounded to bfloat16 at the end has 8 bits.
    half = {"rtol": 1e-6 if dtype == "float32" else 2**-8, "atol": 1e-5}
    np.testing.assert_allclose(y, x @ w, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(back, dy @ w.T, rtol=1e-6, atol=1e-5)
    flat = x.reshape(-1, 4).T @ dy.reshape(-1, 6)
    np.testing.assert_allclose(product, flat, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(dx.astype(np.float32), dy @ w.T, **half)
    np.testing.assert_allclose(dw.astype(np.float32), flat, **half)


def test_sums_of_bfloat16_are_kept_in_float32():
    # Counted in bfloat16 a sum of ones would stand still at 256.
    ones = jnp.ones((600, 1), jnp.bfloat16)
    assert outer(ones, ones)[0, 0] == 600
    assert matmul(ones.T, ones)[0, 0] == 600
    assert matmul_transposed(ones.T, ones.T)[0, 0] == 600


def test_bits_are_those_of_bfloat16_and_come_back():
    x = jnp.asarray([1.0, -2.0, 0.0], jnp.bfloat16)
    np.testing.assert_array_equal(as_bits(x), np.array([0x3F80, 0xC000, 0], np.uint16))
    np.testing.assert_array_equal(from_bits(as_bits(x), jnp.bfloat16), x)
    wide = x.astype(jnp.float32)
    assert as_bits(wide) is wide is from_bits(wide, jnp.dtype("float32"))


@pytest.mark.parametrize(
    ("cpuinfo", "units"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\nprocessor\t: 1\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_tile\nbugs\t\t: amx_bf16\n", False),
        ("processor : 0\nFeatures : fp asimd bf16\n", True),
        ("processor : 0\nFeatures : fp asimd\n", False),
        ("", False),
    ],
)
def test_units_for_bfloat16_are_those_that_the_first_processor_lists(cpuinfo, units):
    assert lists_units(cpuinfo) == units


def test_without_a_list_of_processors_there_are_no_units(monkeypatch):
    def absent(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", absent)
    assert has_units.__wrapped__() is False
