"""Every kernel and every layer on a GPU against the CPU's output: `pytest -m gpu` on a machine that has one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import draw, randomly_filled

from moejax.experts import GLU, MLP
from moejax.kernels import bfloat16, gpu, ragged
from moejax.kernels.groups import Groups
from moejax.kernels.slots import slot_matmul
from moejax.layers import DenseMoE, SoftMoE, SparseMoE

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:Grouped matrix products of .* fall back")]
G, T, D, H, E = 3, 50, 128, 256, 4


@pytest.fixture
def on_both():
    """`f` of the arguments on the GPU, and on the CPU; products of float32 in full."""
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("there is no GPU here")

    def run(f, *arguments):
        with jax.default_matmul_precision("highest"):
            return [
                jax.device_get(jax.jit(lambda *a: f(*a))(*jax.device_put(arguments, where)))
                for where in (device, jax.devices("cpu")[0])
            ]

    return run


def assert_close(got, want, dtype):
    # As a share of the longest: sums of some hundred terms, rounded to 8 bits once or thrice.
    def close(a, b):
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        assert np.abs(a - b).max(initial=0) <= (2e-2 if dtype == "bfloat16" else 1e-4) * np.abs(b).max(initial=1e-3)

    jax.tree.map(close, got, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_chosen_here_is_right(on_both, dtype):
    on_both(lambda: 0)  # skips without a GPU
    errors = {name: gpu.greatest_error(kernels, dtype) for name, kernels in gpu.working(dtype).items()}
    errors["ragged"] = gpu.greatest_error(fitting(ragged), dtype)
    print(dtype, errors)
    assert max(errors.values()) < (0.02 if dtype == "bfloat16" else 0.005)


def fitting(kernels):
    kernels.fits = getattr(kernels, "fits", lambda dtype, *widths: True)
    return kernels


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("d", "h"), [(D, H), (40, 24)])
def test_grouped_products_and_their_derivatives(on_both, dtype, d, h):
    from moejax.kernels.grouped_matmul import grouped_matmul

    def everything(x, w, dy, sizes):
        y, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, Groups.of(sizes)), x, w)
        return y, pull(dy)

    x, w, dy = (draw(i, *shape).astype(dtype) for i, shape in enumerate([(300, d), (E, d, h), (300, h)]))
    assert_close(*on_both(everything, x, w, dy, jnp.array([40, 0, 3, 200])), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_of_slots_and_of_narrow_numbers(on_both, dtype):
    x, w = draw(0, E, T, D).astype(dtype), draw(1, E, D, H).astype(dtype)

    def everything(x, w):
        y, pull = jax.vjp(jax.vmap(slot_matmul), x, w)
        return y, pull(y), bfloat16.matmul(x[0], w[0]), bfloat16.outer(x[0], x[1])

    assert_close(*on_both(everything, x, w), dtype)


LAYERS = {
    "dense": DenseMoE,
    "soft": partial(SoftMoE, slots=2),
    "expert choice": partial(SparseMoE, router="expert_choice", dispatch="gather"),
    **{dispatch: partial(SparseMoE, dispatch=dispatch) for dispatch in ("einsum", "gather", "grouped")},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make_expert", [MLP, GLU])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients(on_both, name, make_expert, dtype):
    def make():
        return LAYERS[name](D, E, lambda rngs: make_expert(D, H, dtype=dtype, rngs=rngs), rngs=nnx.Rngs(0))

    def loss(layer, x):
        y, _ = layer(x)
        return (y.astype(jnp.float32) * jnp.cos(jnp.arange(D))[None, None]).mean(), y

    layer, x = randomly_filled(make, scale=0.1), draw(0, G, T, D)  # float32 for the router: the same choices on both
    assert_close(*on_both(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), layer, x), dtype)
