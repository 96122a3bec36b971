"""Frozen parameters: no gradient, no decay, no state, and a clear sentence where the prefix means nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from moejax.config.training import TrainOptions
from moejax.errors import UserError
from moejax.experts import MLP
from moejax.training.frozen import check, hold
from moejax.training.optimizer import make_optimizer


@pytest.fixture
def mlp():
    return MLP(2, 3, rngs=nnx.Rngs(0))


def named(tree):
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_held_parameters_have_no_gradient(mlp):
    def loss(model):
        return jnp.sum(hold(model, "up.")(jnp.ones(2)) ** 2)

    gradient = named(jax.grad(loss)(mlp))
    for name, leaf in gradient.items():
        assert bool(jnp.any(leaf != 0)) == name.startswith("down."), name


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "optax.adamw"])
def test_they_neither_move_nor_decay_nor_take_state(mlp, optimizer):
    train = dict(optimizer=optimizer, weight_decay=0.5, schedule="constant", warmup=0.0)
    gradient = jax.tree.map(jnp.ones_like, mlp)
    sizes = []
    for prefix in (None, "up.kernel"):
        transform = make_optimizer(TrainOptions(**train, frozen=prefix), 10)
        state = jax.jit(transform.init)(mlp)
        update = jax.jit(lambda state, t=transform: t.update(gradient, state, mlp, value=jnp.float32(1))[0])
        after = named(optax.apply_updates(mlp, update(state)))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(state)))
        for name, leaf in named(mlp).items():
            assert np.array_equal(leaf, after[name]) == (name.startswith("up.kernel") and prefix is not None), name
    assert sizes[0] - sizes[1] == 2 * mlp.up.kernel.size


@pytest.mark.parametrize(("prefix", "which"), [("embeddings", "no parameter's"), ("", "every parameter's")])
def test_a_prefix_without_a_meaning_is_one_sentence(mlp, prefix, which):
    with pytest.raises(UserError, match=f"{which} path begins so.* down, up"):
        check(mlp, prefix)


def test_a_prefix_of_some_is_accepted(mlp):
    check(mlp, "up.")
    check(mlp, None)
