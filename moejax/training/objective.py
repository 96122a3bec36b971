"""The objective: what a step minimises and what it reports. A pure function of (model, batch, key)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from moejax import metrics
from moejax.config import Config
from moejax.data.augment import random_affine
from moejax.losses import load_balance_loss, router_z_loss
from moejax.routing import Routing, TopKRouting

Batch = dict[str, Array]
Objective = Callable[[nnx.Module, Batch, Array], tuple[Array, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """What a training step reports; all float32."""

    loss: Float[Array, "*n"]  # cross-entropy in nats, without the auxiliary losses
    accuracy: Float[Array, "*n"]  # share of the batch classified correctly, after augmentation
    auxiliary: Float[Array, "*n"]  # the weighted auxiliary losses
    load: Float[Array, "*n l e"]  # share of each expert in each layer's work
    dropped: Float[Array, "*n l"]  # share of token choices dropped
    gate_entropy: Float[Array, "*n l"]  # nats


def auxiliary_loss(routing: Routing, balance_weight: float, z_weight: float) -> Float[Array, ""]:
    """Load balance and router z-loss of a sparse layer; 0 for dense and soft, which need neither."""
    if not isinstance(routing, TopKRouting):
        return jnp.zeros(())
    return balance_weight * load_balance_loss(routing) + z_weight * router_z_loss(routing.logits)


def make_objective(config: Config) -> Objective:
    """Cross-entropy on (augmented) examples plus the layers' auxiliary losses."""
    t, moe = config.train, config.moe

    def objective(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], StepMetrics]:
        if t.shift or t.rotate or t.zoom:
            images = random_affine(key, batch["image"], shift=t.shift, rotate=t.rotate, zoom=t.zoom)
            batch = batch | {"image": images}
        logits, routings = model(batch, train=True)
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), t.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        auxiliary = sum(auxiliary_loss(r, moe.balance_weight, moe.z_weight) for r in routings)
        return loss + auxiliary, StepMetrics(
            loss,
            jnp.mean(logits.argmax(-1) == batch["label"], dtype=jnp.float32),
            auxiliary,
            *(jnp.stack([f(r) for r in routings]) for f in (metrics.load, metrics.dropped, metrics.gate_entropy)),
        )

    return objective
