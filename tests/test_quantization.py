"""Experts in int8: how far a weight is off, that every dispatch multiplies by the same, and what stays as it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from seldom import slow_but_for

from moejax import GLU, MLP, DenseMoE, SoftMoE, SparseMoE, quantize
from moejax.linear_maps import Int8Linear, cast
from moejax.parameters import parameters
from moejax.quantization import rounded

D, H, E = 12, 20, 4
KINDS = {
    "dense": lambda make: DenseMoE(D, E, make, rngs=nnx.Rngs(0)),
    "soft": lambda make: SoftMoE(D, E, make, slots=2, rngs=nnx.Rngs(0)),
    **{
        dispatch: lambda make, d=dispatch: SparseMoE(D, E, make, k=2, dispatch=d, make_shared=make, rngs=nnx.Rngs(0))
        for dispatch in ("einsum", "gather", "grouped")
    },
}


def layer(kind, make=lambda rngs: MLP(D, H, rngs=rngs)):
    return reference.randomly_filled(lambda: KINDS[kind](make))


def test_a_matrix_by_hand():
    kernel, scale = rounded(jnp.array([[[127.0, 0.0, 1.0], [-63.6, 0.0, -2.0]]]))
    np.testing.assert_array_equal(kernel, [[[127, 0, 64], [-64, 0, -127]]])  # 63.5 to the even number
    np.testing.assert_allclose(scale, [[1.0, 1.0, 2 / 127]])
    assert kernel.dtype == jnp.int8


def test_a_weight_that_is_not_finite_makes_no_finite_output_of_its_channel():
    kernel, scale = rounded(jnp.array([[1.0, np.nan, np.inf], [1.0, 1.0, 1.0]]))
    outputs = (jnp.ones(2) @ kernel) * scale
    np.testing.assert_array_equal(np.isfinite(outputs), [True, False, False])


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)))
def test_no_weight_is_further_off_than_half_a_step(kernel):
    whole, scale = (np.asarray(a, np.float64) for a in rounded(jnp.asarray(kernel)))
    step = scale[:, None]
    assert (np.abs(whole * step - kernel) <= 0.5001 * step).all()
    assert np.abs(whole).max() <= 127


@jax.jit
def output(module, x):
    return module(x)[0]


def as_floats(module):
    """The same weights, in float32 and ordinary maps."""

    def back(node):
        if type(node) is not Int8Linear:
            return node
        d, h = node.kernel.shape[-2:]
        linear = nnx.eval_shape(lambda: nnx.Linear(d, h, use_bias=node.bias is not None, rngs=nnx.Rngs(0)))
        linear.kernel = nnx.Param(node.kernel[...] * node.scale[...][..., None, :])
        linear.bias = node.bias
        return linear

    return jax.tree.map(back, module, is_leaf=lambda node: type(node) is Int8Linear)


CELLS = slow_but_for(itertools.product(KINDS, (MLP, GLU)), ("gather", MLP), ("soft", MLP), ("grouped", GLU))


@pytest.mark.parametrize(("kind", "expert"), CELLS)
def test_every_layer_multiplies_by_what_is_kept(kind, expert):
    module = layer(kind, lambda rngs: expert(D, H, rngs=rngs))
    small, x = quantize(module), reference.draw(1, 2, 9, D)
    y = output(small, x)
    np.testing.assert_allclose(y, output(as_floats(small), x), rtol=1e-4, atol=1e-5)
    whole = output(module, x)
    assert 0 < np.abs(y - whole).max() < 0.02 * np.abs(whole).max()


def test_in_bfloat16_the_whole_numbers_are_exact():
    module = layer("grouped", lambda rngs: MLP(D, H, dtype=jnp.bfloat16, rngs=rngs))
    x = reference.draw(1, 2, 9, D).astype(jnp.bfloat16)
    small = quantize(module)
    kernel = small.experts.up.kernel[...]
    np.testing.assert_array_equal(kernel.astype(jnp.bfloat16).astype(jnp.int8), kernel)
    y, whole = output(small, x), np.float32(output(module, x))
    assert y.dtype == jnp.bfloat16
    assert np.abs(np.float32(y) - whole).max() < 0.03 * np.abs(whole).max()


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
def test_in_float16_products_of_whole_numbers_do_not_overflow(dispatch):
    # 8 · 127 · 70 is more than float16 holds, 8 · 0.1 · 70 is not
    module = SparseMoE(8, 4, lambda rngs: MLP(8, 8, rngs=rngs), dispatch=dispatch, dtype="float16", rngs=nnx.Rngs(0))
    module = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), module)
    x = jnp.full((1, 2, 8), 70, jnp.float16)
    y, whole = output(quantize(module), x), output(module, x)
    assert y.dtype == whole.dtype == jnp.float16
    np.testing.assert_allclose(np.float32(y), np.float32(whole), rtol=0.01)


def test_under_another_dtype_scales_stay_as_they_are():
    linear = nnx.Linear(1, 64, use_bias=False, rngs=nnx.Rngs(0))
    linear.kernel[...] = jnp.linspace(0.9, 1.1, 64)[None]
    small = cast(Int8Linear(*rounded(linear.kernel[...]), linear), "bfloat16")
    kept, scale = np.float64(small.kernel[...]) * np.float64(small.scale[...]), np.float64(small.scale[...])
    assert (np.abs(kept - np.float64(linear.kernel[...])) <= 0.5001 * scale).all()


@pytest.mark.parametrize("param_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["gather", "dense"])
def test_outputs_have_the_type_that_they_had(kind, param_dtype, dtype):
    module = layer(kind, lambda rngs: MLP(D, H, param_dtype=jnp.dtype(param_dtype), rngs=rngs))
    module.dtype, x = dtype, reference.draw(1, 2, 9, D).astype("bfloat16")
    assert output(quantize(module), x).dtype == output(module, x).dtype


def test_what_is_left_and_what_is_smaller():
    module = layer("gather")
    small = quantize(module)
    assert type(module.experts.up) is nnx.Linear  # what it was made of
    assert type(small.experts.up) is type(small.shared.down) is Int8Linear
    for name in ("router", "experts.up.bias"):
        path = name.split(".")
        for part, other in zip(*(jax.tree.leaves(walk(one, path)) for one in (module, small)), strict=True):
            np.testing.assert_array_equal(part, other)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters(small.experts))} == {jnp.dtype("float32")}  # biases
    large = jax.eval_shape(lambda: SparseMoE(256, 8, lambda rngs: MLP(256, 512, rngs=rngs), rngs=nnx.Rngs(0)))
    assert size_in_bytes(jax.eval_shape(quantize, large)) < 0.27 * size_in_bytes(large)


def size_in_bytes(module):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(module))


def walk(module, path):
    for name in path:
        module = getattr(module, name)
    return module


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (lambda: MLP(4, 4, rngs=nnx.Rngs(0)), "MLP has no experts with linear maps; quantize an MoE layer, or a model"),
        (lambda: quantize(layer("gather")), "SparseMoE has no experts with linear maps"),
        (
            lambda: layer("gather", lambda rngs: MLP(D, H, precision="highest", rngs=rngs)),
            "quantize cannot keep precision highest of an expert's linear map; leave it out",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(module, sentence):
    with pytest.raises(ValueError, match=sentence):
        quantize(module())


def test_a_map_that_is_more_than_a_linear_one_is_refused():
    class Scaled(nnx.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    def make(rngs):
        mlp = MLP(D, H, rngs=rngs)
        mlp.down = Scaled(H, D, rngs=rngs)
        return mlp

    with pytest.raises(ValueError, match=r"quantize knows nnx\.Linear alone, and not what Scaled adds; leave it out"):
        quantize(KINDS["dense"](make))
