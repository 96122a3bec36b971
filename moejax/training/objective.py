"""The objective: what a step minimises and what it reports. A pure function of (model, batch, key)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from moejax import losses, metrics
from moejax.config import Config
from moejax.config.training import AUGMENTATIONS
from moejax.data.augment import augment
from moejax.models.layer import LOSS_OPTIONS
from moejax.parameters import parameters
from moejax.router_updates import moe_layers
from moejax.routing import Routing
from moejax.sharding import TOKENS, constrain
from moejax.training.frozen import hold

Batch = dict[str, Array]
Objective = Callable[[nnx.Module, Batch, Array], tuple[Array, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """What a training step reports; all float32."""

    loss: Float[Array, "*n"]  # cross-entropy in nats, without the auxiliary losses
    accuracy: Float[Array, "*n"]  # share of the batch classified correctly, after augmentation; the mean of the tasks
    auxiliary: Float[Array, "*n"]  # the weighted auxiliary losses, of routing and of consistency
    load: Float[Array, "*n l e"]  # share of each expert in each layer's work
    dropped: Float[Array, "*n l"]  # share of the choices, of expert choice of the tokens
    gate_entropy: Float[Array, "*n l"]  # nats
    experts_per_token: Float[Array, "*n l"]  # chosen by a token on average
    applied: Bool[Array, "*n"] | None = None  # whether the step learnt; None: the update skips nothing
    watched: PyTree[Array] | None = None  # what a watch saw of the gradient; None: nothing watches


def disagreement(first: Float[Array, "b *tasks y"], second: Float[Array, "b *tasks y"]) -> Float[Array, ""]:
    """Mean over examples of the KL divergence between two predictions, averaged over both directions; nats.

    For two passes through a model with dropout it is the R-Drop loss (Liang et al. 2021, equation 2). The paper adds it
    to the sum of both cross-entropies and not to their mean, so its weight of 1 is 0.5 here. Arguments are logits.
    """
    p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return jnp.mean(jnp.sum((jnp.exp(p) - jnp.exp(q)) * (p - q), axis=-1)) / 2


class Outputs(NamedTuple):
    """A model's outputs for a batch; `train.consistency` passes each example through the model twice."""

    logits: Float[Array, "b p *tasks y"]  # p: passes; of a model for one task [b, p, y]
    label: Int[Array, " b *tasks"]
    routings: Sequence[Routing]


Forward = Callable[[nnx.Module, Batch, Array], Outputs]


def make_objective(config: Config) -> Objective:
    """Weighted cross-entropy on (augmented) examples plus the layers' auxiliary losses; of several tasks their mean."""
    forward = in_micro_batches(make_forward(config), config.train.gradient_accumulation_steps)
    score = make_score(config)
    return lambda model, batch, key: score(model, forward(model, batch, key))


def make_forward(config: Config) -> Forward:
    """The model in training, on augmented examples: the random part of an objective."""
    t = config.train
    passes = 2 if t.consistency else 1
    strengths = {name: getattr(t, name) for name in AUGMENTATIONS}

    def forward(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> Outputs:
        augment_key, router_key = jax.random.split(key)
        label = batch["label"]
        # Repeated before augmentation, so that each pass is augmented differently.
        batch = {name: jnp.concatenate([array] * passes) for name, array in batch.items()}
        if "image" in batch:
            batch = batch | {"image": augment(augment_key, batch["image"], **strengths)}
        logits, routings = hold(model, t.frozen)(batch, train=True, key=router_key)
        return Outputs(logits.reshape(passes, *label.shape, -1).swapaxes(0, 1), label, routings)

    return forward


def in_micro_batches(forward: Forward, count: int) -> Forward:
    """`forward` on so many equal parts of a batch, one after the other; the outputs are those of the whole batch.

    So is every loss of them. On the way back each part's activations are computed again and its gradient is added up:
    memory holds the activations of one part, for the time of one forward pass more.
    """
    if count == 1:
        return forward

    def of_batch(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> Outputs:
        def of_part(part: tuple[Batch, Key[Array, ""]]) -> Outputs:
            return forward(model, constrain(part[0], TOKENS), part[1])

        parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch), jax.random.split(key, count)
        outputs = jax.lax.map(jax.checkpoint(of_part, prevent_cse=False), parts)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outputs)

    return of_batch


def make_score(config: Config) -> Callable[[nnx.Module, Outputs], tuple[Array, StepMetrics]]:
    """Loss and metrics from the outputs of a whole batch; from the model only the experts' L2 penalty."""
    t, moe = config.train, config.moe
    options = {argument: getattr(moe, option) for option, argument in LOSS_OPTIONS.items()}
    if options["balance_over"] == "micro_batch":
        options["micro_batches"] = t.gradient_accumulation_steps
    of_routing = metrics.load, metrics.dropped, metrics.gate_entropy, metrics.experts_per_token

    def score(model: nnx.Module, outputs: Outputs) -> tuple[Float[Array, ""], StepMetrics]:
        logits, label, routings = outputs
        targets = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), t.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets[:, None]).mean()
        auxiliary = losses.auxiliary_loss(routings, **options)
        if t.consistency:
            auxiliary += t.consistency * disagreement(logits[:, 0], logits[:, 1])
        if moe.l2_weight:
            layers = moe_layers(hold(model, t.frozen))
            auxiliary += moe.l2_weight * losses.mean_square([parameters(layer.experts) for layer in layers])
        return t.task_weight * loss + auxiliary, StepMetrics(
            loss,
            jnp.mean(logits.argmax(-1) == label[:, None], dtype=jnp.float32),
            auxiliary,
            *(jnp.stack([f(r) for r in routings]) for f in of_routing),
        )

    return score
