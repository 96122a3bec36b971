"""jax.export: layers and models give the same numbers in another program, for any batch.

Run by `test_plain_process.py`: the suite's shape checks know no open batch size. Most routers are marked slow.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from moejax.experts import MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.routers import ROUTERS

D, H, E = 6, 8, 4
LAYERS = {
    "dense": (DenseMoE, {}),
    "soft": (SoftMoE, {"slots": 2}),
    "groups of 7": (SparseMoE, {"group_size": 7, "eval_capacity_factor": 0.8}),
}
LAYERS |= {
    f"{router} {dispatch}": (SparseMoE, {"router": router, "dispatch": dispatch, "k": 1 if router == "switch" else 2})
    for router in ROUTERS
    for dispatch in ("einsum", "gather", "grouped")
    if (router, dispatch) != ("expert_choice", "grouped")
}
FEW = ["soft", "groups of 7", "expert_choice gather"]
FEW += [f"softmax_top_k {dispatch}" for dispatch in ("einsum", "gather", "grouped")]


def few_by_default(names, few):
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in names]


def make(name):
    layer, options = LAYERS[name]
    return layer(D, E, lambda rngs: MLP(D, H, rngs=rngs), rngs=nnx.Rngs(0), **options)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def again(program, *shapes):
    """The program as another process would load it."""
    exported = export.export(program, platforms=("cpu", "cuda", "tpu"))(*shapes)
    return export.deserialize(exported.serialize()).call


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


@pytest.mark.parametrize("name", few_by_default(LAYERS, FEW))
def test_an_exported_layer_and_its_gradient_are_right_for_any_batch(name):
    layer, x, mask = make(name), draw(0, 33, 5, D), draw(1, 33, 5) > -0.5

    @jax.jit
    def program(x, mask):
        y, _ = layer(x, mask=mask)
        return y, jax.grad(lambda x: (layer(x, mask=mask)[0] ** 2).sum())(x)

    (b,) = export.symbolic_shape("b")
    call = again(program, jax.ShapeDtypeStruct((b, 5, D), x.dtype), jax.ShapeDtypeStruct((b, 5), bool))
    for n in (1, 33):
        assert_close(call(x[:n], mask[:n]), program(x[:n], mask[:n]))


@pytest.mark.parametrize("name", ["softmax_top_k einsum", "softmax_top_k grouped", "soft"])
def test_an_exported_layer_of_fixed_shapes_calls_no_python_at_any_size(name, monkeypatch):
    monkeypatch.setattr("moejax.kernels.slots.LARGE", 0)
    layer, x = make(name), draw(0, 3, 5, D)
    program = jax.jit(lambda x: layer(x)[0])
    assert "moejax_grouped" in program.lower(x).compile().as_text()
    assert_close(again(program, x)(x), program(x))


MODELS = {
    "mnist_soft": {"image": ((28, 28), "uint8")},
    "mnist_sparse": {"image": ((28, 28), "uint8")},
    "mnist_base": {"image": ((28, 28), "uint8")},
    "mnist_lstm": {"image": ((28, 28), "uint8")},
    "clusters_moe_nonlinear": {"patches": ((4, 50), "float32")},
    "mrpc_cnn": {"first": ((40,), "int32"), "second": ((40,), "int32")},
    "mrpc_rnn": {"first": ((40,), "int32"), "second": ((40,), "int32")},
    "text_dense": {"tokens": ((96,), "uint8")},
    "text_sparse": {"tokens": ((96,), "uint8")},
    "mrpc_minilm": {"pieces": ((96,), "int32"), "second": ((96,), "bool")},
}


@pytest.mark.parametrize("preset", few_by_default(MODELS, ["mnist_soft", "mrpc_cnn"]))
def test_an_exported_model_gives_the_same_numbers_for_any_batch(preset):
    config = PRESETS[preset].config
    config = config.replace(train=dict(dtype="float32"))
    classes = {"mnist": 10, "text": 256}.get(preset.partition("_")[0], 2)
    model = build_model(config, classes, nnx.Rngs(0))
    program = jax.jit(lambda batch: model(batch, train=False)[0])

    def inputs(b):
        return {name: jax.ShapeDtypeStruct((b, *shape), dtype) for name, (shape, dtype) in MODELS[preset].items()}

    call = again(program, inputs(*export.symbolic_shape("b")))
    for n in (1, 5):
        rng = np.random.default_rng(0)
        batch = {name: jnp.asarray(rng.integers(0, 3, s.shape), s.dtype) for name, s in inputs(n).items()}
        assert_close(call(batch), program(batch))
