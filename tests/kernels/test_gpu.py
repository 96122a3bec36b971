"""Kernels for GPUs, as far as a CPU can tell: lowered for CUDA, and chosen only where they are right."""

import sys
import warnings
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

from moejax.kernels import gpu, gpu_mosaic, ragged

E = 5


def a_gpu():
    """What newer versions of JAX want to know of the GPU that a program is lowered for."""
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def test_mosaic_kernels_lower_for_cuda():
    # All but the outer product, which asks the device how many cores it has.
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    x, w, wt, sizes = array(600, 256), array(E, 256, 384), array(E, 384, 256), array(E, dtype=jnp.int32)
    calls = [(gpu_mosaic.matmul, x, w, sizes), (partial(gpu_mosaic.matmul, transposed=True), x, wt, sizes)]
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
        return scale * ragged.matmul(x, w, sizes, transposed)

    kernels = ModuleType("kernels")
    kernels.matmul, kernels.outer = matmul, lambda *arguments: scale * ragged.outer(*arguments)
    kernels.fits = lambda d, h, dtype: fits
    return kernels


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if this were a GPU with such kernels."""

    def pretend(**kernels):
        monkeypatch.setattr(gpu, "KERNELS", tuple(kernels))
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for name, module in kernels.items():
            monkeypatch.setitem(sys.modules, f"moejax.kernels.gpu_{name}", module)
        gpu.working.cache_clear()

    yield pretend
    gpu.working.cache_clear()


def test_the_first_kernels_that_are_right_and_fit_are_chosen(on_a_gpu):
    right, narrow = fake(), fake(fits=False)
    on_a_gpu(broken=fake(fail=True), wrong=fake(scale=1.1), narrow=narrow, right=right)
    assert list(gpu.working()) == ["narrow", "right"]
    assert gpu.chosen(8, 8, jnp.float32) is right


def test_without_kernels_that_work_the_fall_back_is_announced_once(on_a_gpu):
    on_a_gpu(broken=fake(fail=True), wrong=fake(scale=1.1), nan=fake(scale=float("nan")))
    sentence = (
        r"fall back to lax\.ragged_dot, .*: broken failed \(NotImplementedError: no such GPU\);"
        r" wrong was off by 10%; nan was off by inf%\."
    )
    with pytest.warns(UserWarning, match=sentence):
        assert jax.jit(lambda: gpu.chosen(8, 8, jnp.float32) is ragged)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.chosen(8, 8, jnp.float32) is ragged


def test_without_a_gpu_nothing_is_tried():
    gpu.working.cache_clear()
    assert gpu.working() == {}


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
    assert gpu_mosaic.fits(d, h, dtype) == fits
