"""The optimiser: AdamW with global-norm clipping, linear warm-up and cosine decay to zero."""

import jax
import optax

from moejax.config import TrainConfig


def learning_rate_schedule(train: TrainConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: up from 0 over the first `warmup` share of `steps`, then a half cosine down to 0."""
    warmup = int(train.warmup * steps)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else train.learning_rate, train.learning_rate, warmup, steps
    )


def make_optimizer(train: TrainConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); decay acts on matrices only, not on biases, scales and normalisation."""
    return optax.chain(
        # On one vector, for a program part less for every parameter.
        optax.flatten(optax.chain(optax.clip_by_global_norm(train.clip_norm), optax.scale_by_adam())),
        optax.add_decayed_weights(train.weight_decay, mask=lambda params: jax.tree.map_with_path(_is_matrix, params)),
        optax.scale_by_learning_rate(learning_rate_schedule(train, steps)),
    )


def _is_matrix(path: tuple, leaf: jax.Array) -> bool:
    # A stacked expert's bias has two axes, so the number of axes does not tell a matrix: the name does.
    return leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path)
