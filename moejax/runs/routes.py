"""What the MoE layers did with each example, as arrays by example instead of by group.

Axis letters: n examples, t tokens of an example, e experts, k choices of a token, c slots of an expert.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from moejax.inputs import ungroup
from moejax.routing import Routing, SoftRouting, TopKRouting

AnyArray = Array | ndarray
MOST = 4  # experts of a token that are named


class Route(NamedTuple):
    """One layer's routing; what a kind of layer has not is None."""

    gates: Float[AnyArray, "n t e"]  # weight of each expert in each token's output; 0 where it did not take the token
    experts: Int[AnyArray, "n t k"] | None = None  # sparse: each token's experts, best first; -1 for none
    weights: Float[AnyArray, "n t k"] | None = None  # and the weight of each
    slots: Int[AnyArray, "n t k"] | None = None  # and the token's slot in it; None where the dispatch has no slots
    dispatch: Float[AnyArray, "n t e c"] | None = None  # soft: what each slot is made of; sums to 1 over tokens
    combine: Float[AnyArray, "n t e c"] | None = None  # soft: what each token's output is made of


def by_example(routing: Routing, examples: int, tokens: int) -> Route:
    """The routing of a batch of so many examples with so many tokens each."""

    def of_examples(values: Array) -> Array:
        return ungroup(values, (examples, tokens))

    names: tuple[str, ...] = ("gates",)
    if isinstance(routing, TopKRouting):
        names += ("experts", "weights", *(("slots",) if routing.slots is not None else ()))
    if isinstance(routing, SoftRouting):
        names += ("dispatch", "combine")
    return Route(**{name: of_examples(getattr(routing, name)) for name in names})


def leading(gates: Float[AnyArray, " e"]) -> list[int]:
    """The experts with most weight in a token's output, the largest first; none that has no weight."""
    return [int(e) for e in np.argsort(-np.abs(gates), kind="stable")[:MOST] if gates[e]]
