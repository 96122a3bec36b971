"""The optimiser: AdamW with global-norm clipping, linear warm-up and a schedule after it."""

import jax
import optax

from moejax.config import TrainConfig


def learning_rate_schedule(train: TrainConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: up from 0 over the first `warmup` share of `steps`, then what `schedule` says."""
    warmup, peak = int(train.warmup * steps), train.learning_rate
    if train.schedule == "constant":
        return optax.warmup_constant_schedule(0.0 if warmup else peak, peak, warmup)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)


def make_optimizer(train: TrainConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); decay acts on matrices only, not on biases, scales and normalisation."""
    clip = optax.identity() if train.clip_norm is None else optax.clip_by_global_norm(train.clip_norm)
    return optax.chain(
        # On one vector, for a program part less for every parameter.
        optax.flatten(optax.chain(clip, optax.scale_by_adam())),
        optax.add_decayed_weights(train.weight_decay, mask=lambda params: jax.tree.map_with_path(_is_matrix, params)),
        optax.scale_by_learning_rate(learning_rate_schedule(train, steps)),
    )


def _is_matrix(path: tuple, leaf: jax.Array) -> bool:
    # A stacked expert's bias has two axes, so the number of axes does not tell a matrix: the name does.
    return leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path)
