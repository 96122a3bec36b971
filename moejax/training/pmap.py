"""pmap: each device runs the plain step on its share of a batch, with noise of its own. All that this takes is here.

Every device gathers what the model makes of all shares, so that each has the loss and the metrics of the whole batch.
The derivative of that gather is a sum over devices, so the mean of their gradients is that of the whole batch's loss.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Key, PyTree, Shaped

from moejax.config import Config, nearest_divisor
from moejax.models import build_model
from moejax.parameters import parameters, with_parameters
from moejax.router_updates import moe_layers
from moejax.training.objective import Batch, Objective, Outputs, StepMetrics, in_micro_batches, make_forward, make_score

AXIS = "devices"


def make_objective(config: Config, devices: int) -> Objective:
    """The objective of the whole batch, of which each of so many devices computes a share."""
    forward, score = make_forward(config), make_score(config)

    def share(rows: Shaped[Array, "b ..."]) -> Shaped[Array, "n ..."]:
        size = len(rows) // devices
        return lax.dynamic_slice_in_dim(rows, lax.axis_index(AXIS) * size, size)

    def gathered(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> Outputs:
        outputs = forward(model, jax.tree.map(share, batch), jax.random.fold_in(key, lax.axis_index(AXIS)))
        return jax.tree.map(lambda a: lax.all_gather(a, AXIS, tiled=True), outputs)

    of_batch = in_micro_batches(gathered, config.train.gradient_accumulation_steps)

    def objective(model: nnx.Module, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], StepMetrics]:
        own = with_parameters(model, _mean_gradient(parameters(model)))
        return score(model, of_batch(own, batch, key))

    return objective


@jax.custom_vjp
def _mean_gradient(tree: PyTree[Array]) -> PyTree[Array]:
    """The same arrays; their gradient is the mean over devices."""
    return tree


_mean_gradient.defvjp(lambda tree: (tree, None), lambda _, gradient: (lax.pmean(gradient, AXIS),))


def compile_chunk(chunk: Callable, devices: Sequence[jax.Device], state: PyTree, *others: Any) -> Callable:
    """Compile `chunk(state, *others)` for all devices, each with the same arguments; the state is donated."""
    who = np.arange(len(devices))  # one argument must be a device's own
    program = jax.pmap(
        lambda _, *arguments: chunk(*arguments),
        axis_name=AXIS,
        devices=devices,
        in_axes=(0, *[None] * (1 + len(others))),
        out_axes=None,
        donate_argnums=1,
    )
    return partial(program.lower(who, state, *others).compile(), who)


def keeps_groups(config: Config, shares: int, image_shape: tuple[int, ...] | None = None) -> bool:
    """Whether tokens compete with the same others when the devices of a pmap take so many shares of a batch.

    Over a mesh they always do. An encoder packs each share's tokens by themselves.
    """
    moe, batch = config.moe, config.train.micro_batch_size
    if config.parallel.strategy != "pmap" or shares == 1 or moe.layer != "sparse":
        return True
    dropless = moe.dispatch == "grouped" or moe.capacity_factor is None
    if dropless and moe.router not in ("sinkhorn", "expert_choice"):
        return True
    tokens, size = tokens_of_an_example(config, image_shape)
    whole = batch // shares * tokens % size == 0
    return whole and config.model.name != "encoder"


def broken_groups(config: Config, shares: int, image_shape: tuple[int, ...] | None = None) -> str:
    """The sentence for a configuration that does not keep them."""
    if config.model.name == "encoder":
        return (
            f"parallel.strategy is pmap, but model.name encoder packs a batch's tokens into groups for moe.dispatch"
            f" {config.moe.dispatch} that reach across devices; use grouped, or strategy jit."
        )
    of_example, size = tokens_of_an_example(config, image_shape)
    tokens = config.train.micro_batch_size // shares * of_example
    return (
        f"moe.group_size is {size}, but with parallel.strategy pmap the {tokens} tokens of a device make no whole"
        f" groups of it; use {nearest_divisor(size, tokens)}, or strategy jit."
    )


@lru_cache(1)
def tokens_of_an_example(config: Config, image_shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Tokens that an example has in each of the model's sparse layers, and that compete for slots together there."""
    model = jax.eval_shape(lambda: build_model(config, 2, nnx.Rngs(0), image_shape=image_shape))
    return model.tokens, moe_layers(model)[0].group_size or model.tokens
