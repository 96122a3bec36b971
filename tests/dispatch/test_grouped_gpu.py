"""Kernels for GPUs, as far as a CPU can tell: interpreted, lowered for CUDA, and chosen only where they are right."""

import sys
import warnings
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import draw

from moejax.dispatch import grouped_gpu, grouped_mosaic, grouped_ragged, grouped_triton

E, D, H = 5, 40, 150  # no multiples of a block
CASES = {
    "even": (600, [120, 120, 120, 120, 120]),
    "one has all": (300, [0, 300, 0, 0, 0]),
    "nobody has any": (130, [0, 0, 0, 0, 0]),
    "rows left over": (600, [100, 0, 350, 0, 20]),
    "whole blocks": (512, [128, 0, 256, 128, 0]),
    "few": (7, [2, 0, 4, 0, 1]),
}


@pytest.mark.parametrize(("rows", "sizes"), CASES.values(), ids=CASES)
def test_interpreted_kernels_equal_a_loop_over_rows(rows, sizes):
    x, w, dy, sizes = draw(0, rows, D), draw(1, E, D, H), draw(2, rows, H), jnp.asarray(sizes, jnp.int32)

    @jax.jit
    def products(x, w, dy, sizes):
        matmul = partial(grouped_triton.matmul, interpret=True)
        return (
            matmul(x, w, sizes),
            matmul(x, w.swapaxes(1, 2), sizes, True),
            grouped_triton.outer(x, dy, sizes, interpret=True),
        )

    y, same, sums = products(x, w, dy, sizes)
    np.testing.assert_allclose(y, reference.grouped_matmul(x, w, sizes), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(same, y, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(sums, reference.grouped_outer(x, dy, sizes), rtol=1e-5, atol=1e-4)
    assert not y[sizes.sum() :].any()


def test_blocks_of_rows_by_hand():
    """Runs of 200, 0 and 128 rows of 400: two blocks, none, one, and one of the rows left over."""
    expert, first, end = grouped_triton._blocks_of_rows(jnp.array([200, 0, 128]), 400)
    assert len(expert) == (400 + 4 * 127) // 128 == 7
    np.testing.assert_array_equal(expert[:4], [0, 0, 2, 3])
    np.testing.assert_array_equal(first[:4], [0, 128, 200, 328])
    np.testing.assert_array_equal(end[:4], [200, 200, 328, 400])
    assert (end[4:] == 0).all()


def a_gpu():
    """What newer versions of JAX want to know of the GPU that a program is lowered for."""
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # from JAX 0.12 on; it still works
@pytest.mark.parametrize("kernels", [grouped_triton, grouped_mosaic], ids=["triton", "mosaic"])
def test_kernels_lower_for_cuda(kernels):
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    x, w, wt, dy = array(600, 256), array(E, 256, 384), array(E, 384, 256), array(600, 384)
    sizes = array(E, dtype=jnp.int32)
    calls = [(kernels.matmul, x, w, sizes), (partial(kernels.matmul, transposed=True), x, wt, sizes)]
    if kernels is grouped_triton:  # the other one's second kernel asks the device how many cores it has
        calls.append((kernels.outer, x, dy, sizes))
    for f, *arguments in calls:
        traced = jax.jit(f).trace(*arguments)
        try:
            program = traced.lower(lowering_platforms=("cuda",)).as_text()
        except RuntimeError:
            with a_gpu():
                program = jax.jit(lambda *a, f=f: f(*a)).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        assert "custom_call" in program


def fake(scale=1.0, fits=True, fail=False):
    """Kernels whose answers are `scale` times the right ones."""

    def matmul(x, w, sizes, transposed=False):
        if fail:
            raise NotImplementedError("no such GPU\nand more")
        return scale * grouped_ragged.matmul(x, w, sizes, transposed)

    kernels = ModuleType("kernels")
    kernels.matmul, kernels.outer = matmul, lambda *arguments: scale * grouped_ragged.outer(*arguments)
    kernels.fits = lambda d, h, dtype: fits
    return kernels


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if this were a GPU with such kernels."""

    def pretend(**kernels):
        monkeypatch.setattr(grouped_gpu, "KERNELS", tuple(kernels))
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for name, module in kernels.items():
            monkeypatch.setitem(sys.modules, f"moejax.dispatch.grouped_{name}", module)
        grouped_gpu.working.cache_clear()

    yield pretend
    grouped_gpu.working.cache_clear()


def test_the_first_kernels_that_are_right_and_fit_are_chosen(on_a_gpu):
    right, narrow = fake(), fake(fits=False)
    on_a_gpu(broken=fake(fail=True), wrong=fake(scale=1.1), narrow=narrow, right=right)
    assert list(grouped_gpu.working()) == ["narrow", "right"]
    assert grouped_gpu.chosen(8, 8, jnp.float32) is right


def test_without_kernels_that_work_the_fall_back_is_announced_once(on_a_gpu):
    on_a_gpu(broken=fake(fail=True), wrong=fake(scale=1.1), nan=fake(scale=float("nan")))
    sentence = (
        r"fall back to lax\.ragged_dot, .*: broken failed \(NotImplementedError: no such GPU\);"
        r" wrong was off by 10%; nan was off by inf%\."
    )
    with pytest.warns(UserWarning, match=sentence):
        assert jax.jit(lambda: grouped_gpu.chosen(8, 8, jnp.float32) is grouped_ragged)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grouped_gpu.chosen(8, 8, jnp.float32) is grouped_ragged


def test_without_a_gpu_nothing_is_tried():
    grouped_gpu.working.cache_clear()
    assert grouped_gpu.working() == {}


@pytest.mark.parametrize(
    ("d", "h", "dtype", "fits"),
    [
        (256, 128, "bfloat16", True),
        (256, 100, "bfloat16", False),
        (96, 128, "float16", False),
        (128, 128, "float32", False),
    ],
)
def test_mosaic_takes_whole_tiles_of_16_bits(d, h, dtype, fits):
    assert grouped_mosaic.fits(d, h, dtype) == fits
