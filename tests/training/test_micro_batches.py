"""Micro-batches of a step, one after the other: the loss and the gradient of the whole batch, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.config import make_config
from moejax.errors import UserError
from moejax.models import build_model
from moejax.sharding import make_mesh
from moejax.training import pmap
from moejax.training.objective import make_objective

COUNT, DEVICES = 4, 8
# Sharp enough a router that its load is uneven; groups of two images, which micro-batches and devices keep whole.
MOE = dict(layer="sparse", num_experts=4, k=2, hidden=8, group_size=25, capacity_factor=1.0, balance_weight=1.0)


def configured(config, over, count=1, **moe):
    return config.replace(
        moe=MOE | {"balance_over": over} | moe,
        train={"batch_size": COUNT * DEVICES, "gradient_accumulation_steps": count, "shift": 0.0},
    )


@pytest.fixture(scope="module")
def arguments(config, dataset):
    model = jax.jit(lambda: build_model(configured(config, "global_batch"), 4, nnx.Rngs(0)))()
    model.blocks[0].moe.router.kernel[...] *= 50
    batch = {name: jnp.asarray(array[: COUNT * DEVICES]) for name, array in dataset.train.items()}
    return model, batch, jax.random.key(0)


def gradient(objective):
    return jax.value_and_grad(objective, has_aux=True)


def assert_close(got, want):
    """To 1e-6, or of numbers beyond .1 to the rounding of float32."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


@pytest.fixture(scope="module")
def whole(config, arguments):
    """Of the batch at once."""
    return jax.jit(gradient(make_objective(configured(config, "global_batch"))))(*arguments)


def test_over_the_global_batch_they_are_the_batch_at_once(config, arguments, whole):
    accumulated = configured(config, "global_batch", COUNT)
    step = jax.jit(gradient(make_objective(accumulated)))
    assert_close(step(*arguments), whole)
    with jax.set_mesh(make_mesh(4, 2, jax.devices())):
        assert_close(step(*arguments), whole)


def test_under_pmap_too(config, arguments, whole):
    accumulated = configured(config, "global_batch", COUNT)
    program = jax.pmap(
        lambda _, *arguments: gradient(pmap.make_objective(accumulated, DEVICES))(*arguments),
        axis_name=pmap.AXIS,
        devices=jax.devices(),
        in_axes=(0, None, None, None),
        out_axes=None,
    )
    assert_close(program(np.arange(DEVICES), *arguments), whole)


@pytest.mark.slow
@pytest.mark.parametrize("over", ["micro_batch", "sequence"])
def test_over_each_micro_batch_they_are_the_mean_of_steps_of_their_own(config, arguments, whole, over):
    """As a loop that accumulates gradients has it. A sequence, an image, is as even wherever it is."""
    model, batch, key = arguments
    alone = jax.jit(gradient(make_objective(configured(config, over))))
    parts = [jax.tree.map(lambda a, n=n: jnp.split(a, COUNT)[n], batch) for n in range(COUNT)]
    found = [alone(model, part, key) for part in parts]
    want = jax.tree.map(lambda *of_parts: sum(of_parts) / COUNT, *found)
    (loss, metrics), slope = jax.jit(gradient(make_objective(configured(config, over, COUNT))))(*arguments)
    assert_close(((loss, metrics), slope), want)
    assert loss > whole[0][0] + 1e-3  # less even than all of them together


def test_with_the_grouped_dispatch_whose_products_call_python(config, arguments):
    steps = [
        configured(config, "global_batch", count, dispatch="grouped", capacity_factor=1.25) for count in (1, COUNT)
    ]
    one, accumulated = (jax.jit(gradient(make_objective(step)))(*arguments) for step in steps)
    assert_close(accumulated, one)


@pytest.mark.parametrize(
    ("count", "devices", "sentence"),
    [
        (3, None, r"gradient_accumulation_steps is 3, which does not divide train\.batch_size, 64; use 2\."),
        (4, 32, r"batch_size is 64, which 32 devices cannot share evenly in 4 micro-batches; use 128\."),
    ],
)
def test_what_does_not_divide_is_one_sentence(count, devices, sentence):
    train = {"batch_size": 64, "gradient_accumulation_steps": count}
    with pytest.raises(UserError, match=sentence):
        make_config(train=train, parallel={"data": devices})
