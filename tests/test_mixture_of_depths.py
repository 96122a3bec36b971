"""Mixture-of-Depths: expert choice with one expert that takes a share of the tokens, and a residual around it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import draw

from moejax.config import make_config
from moejax.errors import UserError
from moejax.experts import MLP
from moejax.layers import SparseMoE
from moejax.metrics import dropped, experts_per_token

D, T = 6, 16
AN_EIGHTH = dict(capacity_factor=0.125, eval_capacity_factor=0.125, group_size=0, num_experts=1, k=1)
ROUTER = dict(router="expert_choice", score_function="sigmoid", dispatch="gather")


@pytest.fixture(scope="module")
def layer():
    return SparseMoE(D, make_expert=lambda rngs: MLP(D, 8, rngs=rngs), rngs=nnx.Rngs(0), **AN_EIGHTH, **ROUTER)


@partial(jax.jit, static_argnames="train")
def block(layer, x, train=False):
    y, routing = layer(x, train=train)
    return x + y, routing, dropped(routing), experts_per_token(routing)


@pytest.mark.parametrize("train", [False, True])
def test_an_eighth_of_each_sequence_is_processed_and_the_others_pass_unchanged(layer, train):
    x = draw(0, 3, T, D)
    out, routing, skipped, experts = block(layer, x, train=train)
    scores = np.asarray(x) @ np.asarray(layer.router.kernel[...])[:, 0]
    taken = scores >= np.sort(scores)[:, -T // 8, None]
    np.testing.assert_array_equal(routing.choices[..., 0], taken)
    np.testing.assert_array_equal((np.asarray(out) == x).all(-1), ~taken)
    assert taken.sum(1).tolist() == [2, 2, 2]
    assert (skipped, experts) == (7 / 8, 1 / 8)
    # What is taken is weighted by its score.
    y = jax.vmap(lambda expert: expert(x))(layer.experts)[0]
    want = np.asarray(x) + np.where(taken, 1 / (1 + np.exp(-scores)), 0)[..., None] * np.asarray(y)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_the_router_learns_from_the_tokens_that_are_taken(layer):
    gradient = jax.jit(jax.grad(lambda layer, x: (block(layer, x)[0] ** 2).sum()))(layer, draw(0, 3, T, D))
    assert np.abs(gradient.router.kernel[...]).max() > 1e-3


def test_a_later_token_can_push_an_earlier_one_out(layer):
    """So it does not suit a model that predicts the next token, as the docstring says."""
    x = draw(0, 1, T, D)
    first = int(np.flatnonzero(block(layer, x)[1].choices[0, :, 0])[0])
    best = 100 * np.asarray(layer.router.kernel[...])[:, 0]
    crowded = x.at[0, first + 1 :].set(jnp.asarray(best)[None])
    assert (block(layer, x)[0] != block(layer, crowded)[0])[0, first].any()


def test_a_softmax_over_one_expert_is_refused():
    moe = AN_EIGHTH | dict(layer="sparse", router="expert_choice", dispatch="gather")
    with pytest.raises(UserError, match=r"moe\.num_experts is 1, over .* gradient; use moe\.score_function sigmoid\."):
        make_config(moe=moe)
    assert make_config(moe=moe | {"score_function": "sigmoid"}).moe.k == 1
