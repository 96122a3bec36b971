"""R-Drop by hand: two passes of each example, and what they disagree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.errors import UserError
from moejax.training.objective import disagreement, make_objective


def test_disagreement_by_hand():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.8, 0.2], [0.9, 0.1]])
    # KL(p‖q) = .5 ln(.5/.8) + .5 ln(.5/.2), KL(q‖p) = .8 ln(.8/.5) + .2 ln(.2/.5); the second row agrees.
    both = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2) + 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    logits = (jnp.asarray(np.log(a) + 3, jnp.float32) for a in (p, q))
    np.testing.assert_allclose(disagreement(*logits), both / 2 / 2, rtol=1e-5)


class Half(nnx.Module):
    """Answers 0 for the first half of what it is given, and w for the rest: as if by lot."""

    def __init__(self):
        self.w = nnx.Param(jnp.array([2.0, 0.0]))

    def __call__(self, batch, *, train, key):
        n = len(batch["label"])
        return jnp.where(jnp.arange(n)[:, None] < n // 2, 0.0, self.w[...][None]), (routing(n),)


def routing(n):
    from moejax.routing import DenseRouting

    return DenseRouting(jnp.zeros((1, n, 2)), jnp.full((1, n, 2), 0.5))


def test_consistency_makes_two_passes_and_adds_what_they_disagree(config):
    batch = {"label": jnp.array([0, 1, 1])}
    losses = {}
    for weight in (1.0, 3.0):
        train = dict(consistency=weight)  # of what is no image, nothing is augmented
        loss, metrics = jax.jit(make_objective(config.replace(train=train)))(Half(), batch, jax.random.key(0))
        losses[weight] = float(loss)
        # Three answers of (½, ½), and three of softmax(2, 0): one right, two wrong.
        right, wrong = -math.log(1 / (1 + math.exp(-2))), -math.log(1 / (1 + math.exp(2)))
        np.testing.assert_allclose(metrics.loss, (3 * math.log(2) + right + 2 * wrong) / 6, rtol=1e-5)
    expected = disagreement(jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]]))
    np.testing.assert_allclose((losses[3.0] - losses[1.0]) / 2, expected, rtol=1e-5)


class Seen(nnx.Module):
    """Shows the images it was given, as if they were logits."""

    def __call__(self, batch, *, train, key):
        n = len(batch["label"])
        return batch["image"].reshape(n, -1).astype(jnp.float32), (routing(n),)


def test_each_of_the_two_passes_draws_an_augmentation_of_its_own(config, dataset):
    """The same image twice in a batch is moved in two ways, and so is each one in its two passes."""
    train = dict(consistency=1.0, shift=3.0)
    batch = {"image": jnp.asarray(dataset.train["image"][:8]), "label": jnp.zeros(8, int)}

    def told(**train):
        objective = make_objective(config.replace(train=train))
        return jax.jit(lambda batch: objective(Seen(), batch, jax.random.key(0))[1])(batch)

    drawn, hardly = told(**train), told(**train | {"shift": 1e-6})
    assert hardly.auxiliary < 1e-3
    assert drawn.auxiliary > 1
    with pytest.raises(UserError, match="consistency is 1, but nothing is random, so that both passes of an example"):
        told(**train | {"shift": 0.0})
