"""The objective: what a step minimises and what it reports. A pure function of (model, batch, key)."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from moejax import losses, metrics
from moejax.config import Config
from moejax.data.augment import augment
from moejax.parameters import parameters
from moejax.training.collectives import ALONE, Collectives
from moejax.training.frozen import hold

Batch = dict[str, Array]
Objective = Callable[[nnx.Module, Batch, Array], tuple[Array, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """What a training step reports; all float32."""

    loss: Float[Array, "*n"]  # cross-entropy in nats, without the auxiliary losses
    accuracy: Float[Array, "*n"]  # share of the batch classified correctly, after augmentation
    auxiliary: Float[Array, "*n"]  # the weighted auxiliary losses, of routing and of consistency
    load: Float[Array, "*n l e"]  # share of each expert in each layer's work
    dropped: Float[Array, "*n l"]  # share of token choices dropped
    gate_entropy: Float[Array, "*n l"]  # nats


def disagreement(first: Float[Array, "b y"], second: Float[Array, "b y"]) -> Float[Array, ""]:
    """Mean over examples of the KL divergence between two predictions, mean of both directions, in nats.

    Of two passes through a model with dropout it is the R-Drop loss (Liang et al. 2021, equation 2). They add it to the
    sum of both cross-entropies, not to the mean: their weight of 1 is one of 0.5 here. Arguments are logits.
    """
    p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return jnp.mean(jnp.sum((jnp.exp(p) - jnp.exp(q)) * (p - q), axis=-1)) / 2


def make_objective(config: Config, across: Collectives = ALONE) -> Objective:
    """Weighted cross-entropy on (augmented) examples plus the layers' auxiliary losses.

    Those, and all metrics, are of the whole batch: where a device holds a share of it, the routings are gathered first.
    """
    t, moe = config.train, config.moe
    names = list(inspect.signature(losses.auxiliary_loss).parameters)[1:]
    weights = {name: getattr(moe, f"{name}_weight") for name in names}

    def objective(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], StepMetrics]:
        model = hold(model, t.frozen)
        augment_key, router_key = jax.random.split(key)
        if t.consistency:  # before anything is drawn: each pass sees an augmentation of its own
            batch = {name: jnp.concatenate([array, array]) for name, array in batch.items()}
        if "image" in batch:
            strengths = ("shift", "rotate", "zoom", "elastic", "crop", "blur")
            image = augment(augment_key, batch["image"], **{name: getattr(t, name) for name in strengths})
            batch = batch | {"image": image}
        logits, routings = model(batch, train=True, key=router_key)
        routings = across.gather(routings)
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), t.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        auxiliary = losses.auxiliary_loss(routings, **weights)
        if t.consistency:
            auxiliary += t.consistency * disagreement(*jnp.split(logits, 2))
        if moe.l2_weight:
            auxiliary += moe.l2_weight * losses.mean_square([parameters(layer.experts) for layer in model.moe_layers])
        return t.task_weight * loss + auxiliary, StepMetrics(
            across.mean(loss),
            across.mean(jnp.mean(logits.argmax(-1) == batch["label"], dtype=jnp.float32)),
            across.mean(auxiliary),
            *(jnp.stack([f(r) for r in routings]) for f in (metrics.load, metrics.dropped, metrics.gate_entropy)),
        )

    return objective
