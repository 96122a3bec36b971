"""The objective of a share of a batch under pmap: the loss, the metrics and the gradient of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.models import build_model
from moejax.training import pmap
from moejax.training.objective import make_objective

DEVICES = 4


@pytest.mark.parametrize(
    "router", [{}, pytest.param({"router": "relu", "l1_reg_coeff_init": 1.0}, marks=pytest.mark.slow)], ids=str
)
def test_the_mean_gradient_is_that_of_the_whole_batchs_loss(config, dataset, router):
    """With what is not linear in the examples (balance, sparsity), of pairs of passes (consistency) and of the model
    (l2).
    """
    moe = dict(layer="sparse", num_experts=4, k=2, hidden=8, group_size=25, balance_weight=1.0, l2_weight=1.0) | router
    moe |= dict(jitter=1e-9)  # noise that is none, without which two passes would be refused
    config = config.replace(moe=moe, train={"shift": 0.0, "consistency": 1.0})
    model = jax.jit(lambda: build_model(config, 10, nnx.Rngs(0)))()
    batch = {name: jnp.asarray(array[: 2 * DEVICES]) for name, array in dataset.train.items()}

    def gradient(objective):
        return jax.value_and_grad(objective, has_aux=True)

    arguments = model, batch, jax.random.key(0)
    (loss, metrics), whole = jax.jit(gradient(make_objective(config)))(*arguments)
    program = jax.pmap(
        lambda _, *arguments: gradient(pmap.make_objective(config, DEVICES))(*arguments),
        axis_name=pmap.AXIS,
        devices=jax.devices()[:DEVICES],
        in_axes=(0, None, None, None),
    )
    results, gradients = program(np.arange(DEVICES), *arguments)
    for device in range(DEVICES):
        found = jax.tree.map(lambda a, device=device: a[device], (results, gradients))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[0], (loss, metrics))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[1], whole)
