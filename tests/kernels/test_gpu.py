"""Kernels for GPUs, as far as a CPU can tell: interpreted, lowered for CUDA, and chosen only where they are right."""

import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export, lax
from reference import draw
from seldom import slow_but_for

from moejax.kernels import cpu_blas, gpu, gpu_mosaic, grouped_matmul, ragged
from moejax.kernels.groups import Groups

ROWS, E, D, H = 256, 6, 128, 256
SIZES = np.array([40, 0, 3, 100, 0, 60])  # empty, begun and ended within a tile, and some rows left over


@pytest.fixture
def gpu_tokamax(monkeypatch):
    """Our module for tokamax, which is not installed here: a function of that name and signature in its place."""
    monkeypatch.setitem(sys.modules, "tokamax", SimpleNamespace(ragged_dot=lambda x, w, n: lax.ragged_dot(x, w, n)))
    yield importlib.import_module("moejax.kernels.gpu_tokamax")
    sys.modules.pop("moejax.kernels.gpu_tokamax")


@pytest.fixture
def core_count(monkeypatch):
    """One of Mosaic's kernels asks the device how many cores it has."""
    module = importlib.import_module("jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu")
    monkeypatch.setattr(module, "jax", SimpleNamespace(**vars(jax) | {"devices": lambda: [a_gpu()]}))


def a_gpu():
    return SimpleNamespace(core_count=132)


def operands(dtype, rows=ROWS, d=D, h=H):
    return (a.astype(dtype) for a in (draw(0, rows, d), draw(1, E, d, h), draw(2, rows, h)))


PRODUCTS = {
    "matmul": lambda kernels, x, w, dy, groups: kernels.matmul(x, w, groups, False),
    "transposed": lambda kernels, x, w, dy, groups: kernels.matmul(dy, w, groups, True),
    "outer": lambda kernels, x, w, dy, groups: kernels.outer(x, dy, groups),
}
RIGHT = {
    "matmul": lambda x, w, dy: reference.grouped_matmul(x, w, SIZES),
    "transposed": lambda x, w, dy: reference.grouped_matmul(dy, w.swapaxes(1, 2), SIZES),
    "outer": lambda x, w, dy: reference.grouped_outer(x, dy, SIZES),
}
each_product = pytest.mark.parametrize("name", PRODUCTS)


def assert_right(name, kernels, dtype, **shapes):
    x, w, dy = operands(dtype, **shapes)
    got = jax.jit(lambda *a: PRODUCTS[name](kernels, *a, Groups.of(jnp.asarray(SIZES))))(x, w, dy)
    assert got.dtype == x.dtype
    want = RIGHT[name](*(np.asarray(a, np.float64) for a in (x, w, dy)))
    rounded = 2**-8 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rounded, atol=rounded)
    np.testing.assert_array_equal(np.asarray(got, np.float64)[want == 0], 0)  # left over, or an empty group's


@each_product
def test_interpreted_mosaic_kernels_equal_a_loop_over_rows(name, core_count):
    plgpu = pytest.importorskip("jax.experimental.pallas.mosaic_gpu")
    if not hasattr(plgpu, "force_gpu_interpret_mode"):
        pytest.skip("this version of JAX cannot interpret kernels for GPUs")
    with plgpu.force_gpu_interpret_mode():
        assert_right(name, gpu_mosaic, "bfloat16")


@each_product
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_has_the_signature_of_ragged_dot_makes_all_products(name, dtype, gpu_tokamax):
    assert_right(name, gpu_tokamax, dtype, d=24, h=10)


@each_product
def test_mosaic_kernels_lower_for_cuda(name, core_count):
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    def lowered():
        program = jax.jit(lambda *a: PRODUCTS[name](gpu_mosaic, *a, Groups.of(jnp.asarray(SIZES))))
        return program.trace(*operands("bfloat16")).lower(lowering_platforms=("cuda",)).as_text()

    try:
        text = lowered()
    except RuntimeError:  # newer versions of JAX want to know the GPU
        device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
        with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
            text = lowered()
    assert "mosaic_gpu" in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_derivatives_are_exported_for_gpus_and_tpus(dtype):
    def everything(x, w, dy, sizes):
        groups = Groups.of(sizes)
        y, pull = jax.vjp(lambda x, w: grouped_matmul.grouped_matmul(x, w, groups), x, w)
        return y, pull(dy)

    arguments = (*operands(dtype, d=24, h=10), jnp.asarray(SIZES))
    exported = export.export(jax.jit(everything), platforms=("cuda", "tpu", "cpu"))(*arguments)
    assert exported.platforms == ("cuda", "tpu", "cpu")
    assert "ragged_dot" in exported.mlir_module()
    got, want = (jax.tree.leaves(f(*arguments)) for f in (exported.call, jax.jit(everything)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=2**-7, atol=1e-4)


# The choice


def fake(wrong=lambda x, w, sizes: False, fits=True, fail=False):
    """Kernels that say they fit, and are a tenth too large where they are `wrong`."""

    def scaled(product):
        def of(a, b, groups, *transposed):
            if fail:
                raise NotImplementedError("no such GPU\nand more")
            scale = jnp.where(wrong(a, b, groups.sizes), 1.1, 1).astype(a.dtype)
            return scale * product(a, b, groups, *transposed)

        return of

    kernels = ModuleType("kernels")
    kernels.matmul, kernels.outer = scaled(cpu_blas.matmul), scaled(cpu_blas.outer)
    kernels.fits = lambda dtype, *widths: fits
    return kernels


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if this were a GPU with such kernels."""

    def pretend(**kernels):
        monkeypatch.setattr(gpu, "KERNELS", tuple(kernels))
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for name, module in kernels.items():
            monkeypatch.setitem(sys.modules, f"moejax.kernels.gpu_{name}", module)
        gpu._tried.cache_clear()

    yield pretend
    gpu._tried.cache_clear()


def test_the_first_kernels_that_are_right_and_fit_are_chosen(on_a_gpu):
    right, narrow = fake(), fake(fits=False)
    on_a_gpu(broken=fake(fail=True), wrong=fake(lambda *a: True), narrow=narrow, right=right)
    assert list(gpu.working("bfloat16")) == ["narrow", "right"]
    assert gpu.chosen("bfloat16", 8, 8) is right
    assert grouped_matmul.choices() == {"float32": "narrow, right, ragged", "bfloat16": "narrow, right, ragged"}


WRONG_FOR = {
    "widths off the tile": lambda a, b, sizes: a.shape[-1] % 128 > 0,
    "few rows": lambda a, b, sizes: len(a) < 128,
    "empty groups": lambda a, b, sizes: (sizes == 0).any(),
    "groups that begin within the first tile": lambda a, b, sizes: (sizes[0] > 0) & (sizes[0] < 64),
    "products by the matrix, transposed": lambda a, b, sizes: b.ndim == 3 and a.shape[-1] == b.shape[2],
    "outer products": lambda a, b, sizes: b.ndim == 2,
    "rows left over": lambda a, b, sizes: sizes.sum() < len(a),
}


@pytest.mark.parametrize("case", slow_but_for(WRONG_FOR, "empty groups", "outer products"))
def test_the_trial_finds_kernels_that_are_wrong_for(case, on_a_gpu):
    on_a_gpu(wrong=fake(WRONG_FOR[case]), right=fake())
    assert list(gpu.working("bfloat16")) == ["right"]


def test_each_type_of_number_is_tried_by_itself(on_a_gpu):
    on_a_gpu(half=fake(lambda a, b, sizes: a.dtype == jnp.float32), right=fake())
    assert grouped_matmul.choices() == {"float32": "right, ragged", "bfloat16": "half, right, ragged"}


def test_without_kernels_that_work_the_fall_back_is_announced_once(on_a_gpu):
    on_a_gpu(broken=fake(fail=True), wrong=fake(lambda *a: True), absent=None)
    sentence = (
        r"of float32 fall back to lax\.ragged_dot, .*: broken failed \(NotImplementedError: no such GPU\);"
        r" wrong was off by 10\.0%; absent failed \(ModuleNotFoundError: .*\)\."
    )
    with pytest.warns(UserWarning, match=sentence):
        assert jax.jit(lambda: gpu.chosen("float32", 8, 8) is ragged)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.chosen("float32", 8, 8) is ragged


def test_an_output_that_is_no_number_is_no_right_one():
    kernels = fake()
    kernels.outer = lambda x, dy, groups: jnp.nan * ragged.outer(x, dy, groups)
    assert gpu.greatest_error(kernels, "float32") == float("inf")


def test_a_row_of_nan_must_not_spoil_another_experts_gradient():
    def masked(x, dy, groups):  # by a product, as 0 · NaN is NaN
        mask = jax.nn.one_hot(groups.of_rows(len(x)), len(groups.sizes), dtype=x.dtype)
        return jnp.einsum("re,rd,rh->edh", mask, x, dy)

    kernels = fake()
    assert gpu.greatest_error(kernels, "float32") < 1e-5
    kernels.outer = masked
    assert gpu.greatest_error(kernels, "float32") == float("inf")


def test_without_a_gpu_nothing_is_tried():
    assert gpu.working("float32") == {}


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
    assert gpu_mosaic.fits(dtype, d, h) == fits
