"""What experts go by: how much of a router's decision the position, the content and the label of a token tell.

Each is a table of the tokens' shares by what the token is, summed over a split. A fixed table of positions decides as
firmly as a router that has learnt to, so that a low entropy alone is no success: see `Hash` and `Random`.

Axis letters: b n examples, l layers, t tokens of an example, e experts, y kinds of token.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer
from numpy import ndarray

from moejax import metrics
from moejax.data.dataset import Examples, is_text, of_first_task, rows
from moejax.inputs import AnyArray
from moejax.sharding import replicated
from moejax.training.k_means import k_means, nearest
from moejax.training.objective import Batch

CONTENTS = 32  # clusters of content
_SAMPLE = 4096  # tokens, or a few more, of which they are made


class Kinds(NamedTuple):
    """What kind each token is of, in one respect: -1 for none."""

    of: Integer[ndarray, "n t"]
    number: int


class Tables(NamedTuple):
    """Tokens' shares summed over examples, by each respect, and the entropy of each token's own experts, in nats."""

    shares: dict[str, Float[AnyArray, "l y e"]]
    entropy: Float[AnyArray, " l"]

    def explained(self) -> dict[str, Float[ndarray, " l"]]:
        """By respect, the share of each layer's decision that it tells, 0 to 1: see `uncertainty_coefficient`."""
        tokens = self.shares["position"].sum((1, 2))
        within = self.entropy / jnp.maximum(tokens, 1)
        return {name: np.asarray(_coefficients(table, within)) for name, table in self.shares.items()}


_coefficients = jax.jit(jax.vmap(metrics.uncertainty_coefficient))


def kinds_of_tokens(model: nnx.Module, data: Examples, num_classes: int, batch_size: int) -> dict[str, Kinds]:
    """The position, the label and, where the model says what a token is made of, the content of a split's tokens.

    Contents are clusters by k-means: the same for every layer, and for all models that cut the data alike. Of several
    tasks the label is the first one's. Of text the label is the next token, and the content the token itself.
    """
    n, t, label = rows(data), model.tokens, np.asarray(data["label"])
    of_token = label if is_text(data) else of_first_task(label)[:, None]
    kinds = {
        "position": Kinds(np.broadcast_to(np.arange(t), (n, t)), t),
        "label": Kinds(np.broadcast_to(of_token, (n, t)), num_classes),
    }
    if is_text(data):
        kinds["content"] = Kinds(np.asarray(data["tokens"]), num_classes)
    elif hasattr(model, "content"):
        kinds["content"] = Kinds(_clusters(model, data, batch_size), CONTENTS)
    return kinds


def tabulate(shares: Float[Array, "b l t e"], kinds: Mapping[str, Kinds]) -> Tables:
    """The tables of a batch; `kinds` are those of its tokens."""
    of, numbers = ({name: kind[i] for name, kind in kinds.items()} for i in (0, 1))
    return _tables(shares, of, tuple(numbers.items()))


def add(tables: Sequence[Tables]) -> Tables:
    """The tables of all batches together."""
    return jax.tree.map(lambda *arrays: sum(map(np.asarray, arrays)), *tables)


@partial(jax.jit, static_argnames="numbers")
def _tables(
    shares: Float[Array, "b l t e"], of: dict[str, Integer[Array, "b t"]], numbers: tuple[tuple[str, int], ...]
) -> Tables:
    counts = jax.vmap(metrics.label_counts, in_axes=(1, None, None))
    return Tables(
        {name: counts(shares, of[name], number) for name, number in numbers},
        jax.scipy.special.entr(shares).sum((0, 2, 3)),
    )


@jax.jit
def _content(model: nnx.Module, batch: Batch) -> Float[Array, "b t d"]:
    return model.content(batch)


def _clusters(model: nnx.Module, data: Examples, batch_size: int) -> Int[ndarray, "n t"]:
    """The cluster of each token's content; -1 for padding."""
    n, run = rows(data), replicated(_content)

    def content(some: slice | Int[ndarray, " m"]) -> Float[ndarray, "m t d"]:
        return np.asarray(run(model, {name: array[some] for name, array in data.items()}), np.float32)

    sample = content(np.unique(np.linspace(0, n - 1, min(n, -(-_SAMPLE // model.tokens))).round().astype(int)))
    sample = sample.reshape(-1, sample.shape[-1])
    centres = k_means(sample[~np.isnan(sample).any(1)], CONTENTS)

    def clusters(x: Float[ndarray, "m t d"]) -> Int[ndarray, "m t"]:
        flat = x.reshape(-1, x.shape[-1])
        padding = np.isnan(flat).any(1)
        return np.where(padding, -1, nearest(np.nan_to_num(flat), centres)).reshape(x.shape[:2])

    return np.concatenate([clusters(content(slice(s, s + batch_size))) for s in range(0, n, batch_size)])
