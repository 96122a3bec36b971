"""The walk-through's exercises: `check(n, yours)` holds your function against what it has to give.

It prints that your function is right, or raises AssertionError with what was given and what was expected.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import moejax
from moejax import dispatch, routing

KERNEL = jnp.array([[2.0, 0.0, -2.0], [0.0, 2.0, -2.0]])
MATRICES = jnp.array([[[2.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]]])
TOKENS = jax.random.normal(jax.random.key(0), (6, 2))


def check(number: int, yours: Callable) -> None:
    """Say that `yours` solves this exercise, or raise AssertionError in a sentence; ValueError for another number."""
    if number not in range(1, len(CHECKS) + 1):
        raise ValueError(f"There is no exercise {number}: give a number from 1 to {len(CHECKS)}.")
    CHECKS[number - 1](yours)
    print(f"Exercise {number}: right.")


def two_best(top_2: Callable) -> None:
    """Logits [t, e] → experts [t, 2], weights [t, 2]."""
    logits = TOKENS @ KERNEL
    right = routing.softmax_top_k(logits[None], 2)
    experts, weights = top_2(logits)
    same("the experts", experts, right.experts[0])
    same("their weights", weights, right.weights[0])


def by_loops(sparse_loop: Callable) -> None:
    """Tokens [t, d], experts [t, k], weights [t, k], matrices [e, d, d] → outputs [t, d]."""
    decided = routing.assign(routing.softmax_top_k((TOKENS @ KERNEL)[None], 2), 6)
    right = dispatch.einsum_dispatch(_experts, TOKENS[None], decided, 6)[0]
    same("the outputs", sparse_loop(TOKENS, decided.experts[0], decided.weights[0], MATRICES), right)


def slot_by_slot(slots_of: Callable) -> None:
    """Experts [t], capacity → slots [t]."""
    chosen = jax.random.randint(jax.random.key(1), (1, 20, 1), 0, 3)
    ones = jnp.ones((1, 20, 3))
    for capacity in (1, 4, 20):
        decided = routing.TopKRouting(ones, ones / 3, chosen, jnp.ones((1, 20, 1)))
        right = routing.assign(decided, capacity).slots[0, :, 0]
        same(f"the slots at capacity {capacity}", slots_of(np.asarray(chosen[0, :, 0]), capacity), right)


def one_with_a_gradient(straight_through: Callable) -> None:
    """A probability → 1, with the probability's gradient."""
    for p in (0.3, 0.9):
        same(f"the value at {p}", straight_through(jnp.float32(p)), 1.0)
        same(f"the gradient at {p}", jax.grad(lambda p: straight_through(p))(jnp.float32(p)), 1.0)


def balance(balance_loss: Callable) -> None:
    """Probabilities [t, e], experts [t, k] → a number."""
    decided = routing.softmax_top_k((TOKENS @ KERNEL)[None], 2)
    same("the loss", balance_loss(decided.probs[0], decided.experts[0]), moejax.load_balance_loss(decided))
    even, all_of_them = jnp.full((6, 3), 1 / 3), jnp.tile(jnp.arange(3), (6, 1))
    same("the loss of even probabilities, k = 3", balance_loss(even, all_of_them), 1.0)


def above(chance: Callable) -> None:
    """Logit, best of the others, deviation → a probability."""
    draws = np.random.default_rng(0).normal(size=400_000)
    for clean, best, deviation in ((1.0, 0.0, 0.5), (-1.0, 0.5, 2.0), (0.0, 0.0, 1.0)):
        drawn = np.mean(clean + deviation * draws > best)
        what = f"the probability that {clean} + {deviation} · noise is above {best}"
        same(what, chance(clean, best, deviation), drawn, tolerance=4e-3)


def looks_ahead(sees_the_future: Callable) -> None:
    """Layer, tokens [1, t, d] → whether an output depends on a later token."""

    def by_experts(x):
        return dispatch.einsum_dispatch(_experts, x, routing.expert_choice(x @ KERNEL, 2), 2)

    layers = {
        "expert choice": (by_experts, True),
        "each token by itself": (lambda x: jnp.tanh(x @ MATRICES[1]), False),
        "the mean of all tokens up to this one": (lambda x: jnp.cumsum(x, 1) / jnp.arange(1, 7)[None, :, None], False),
        "the mean of all tokens": (lambda x: x + x.mean(1, keepdims=True), True),
    }
    for name, (layer, leaks) in layers.items():
        same(f"whether {name} sees the future", sees_the_future(layer, TOKENS[None]), leaks)


def soft(soft_moe: Callable) -> None:
    """Tokens [t, d], slots [d, e, c], matrices [e, d, d] → outputs [t, d]."""
    phi = jax.random.normal(jax.random.key(2), (2, 3, 2))
    mixed = routing.soft_routing(jnp.einsum("td,dec->tec", TOKENS, phi)[None])
    filled = dispatch.dispatch_tokens(mixed.dispatch, TOKENS[None])
    same("the outputs", soft_moe(TOKENS, phi, MATRICES), dispatch.combine_slots(mixed.combine, _experts(filled))[0])


def an_expert_for_each(assigned_experts: Callable) -> None:
    """Numbers of labels and of experts → experts [y]."""
    for labels, experts in ((10, 10), (10, 3), (10, 4), (3, 5)):
        right = routing.assigned_experts(labels, experts)
        same(f"the experts of {labels} labels, {experts} experts", assigned_experts(labels, experts), right)


def tokens_of_a_group(group_size: Callable) -> None:
    """Hidden width, allowed overhead → a number of tokens."""
    for hidden, overhead in ((256, 0.25), (1024, 0.25), (1024, 1.0), (100, 0.5)):
        same(f"the group at {hidden}, {overhead}", group_size(hidden, overhead), int(hidden * overhead))


def other_table(inverse: Callable) -> None:
    """Rows [r], number of tokens, k → the rows of each token [t, k]."""
    rows = np.array([3, 0, 0, 1, 4, 3])
    right = [[1, 2], [3, -1], [-1, -1], [0, 5], [4, -1]]
    same("the table", inverse(rows, 5, 2), right)


def crossing(bytes_that_cross: Callable) -> None:
    """Tokens, k, capacity factor, width, devices, bytes a number → bytes."""
    for asked in ((256, 2, 2.0, 16, 4, 4), (8192, 2, 1.25, 1024, 8, 2), (64, 1, 1.0, 8, 1, 4)):
        tokens, k, factor, width, devices, size = asked
        right = 2 * tokens * k * factor * width * size * (devices - 1) / devices
        same(f"the bytes for {asked}", bytes_that_cross(*asked), right)


CHECKS = (
    *(two_best, by_loops, slot_by_slot, one_with_a_gradient, balance, above),
    *(looks_ahead, soft, an_expert_for_each, tokens_of_a_group, other_table, crossing),
)


def same(what: str, yours: object, right: object, tolerance: float = 1e-5) -> None:
    """Raise AssertionError where two arrays, or numbers, differ."""
    a, b = np.asarray(yours), np.asarray(right)
    if a.shape != b.shape:
        raise AssertionError(f"{what}: you gave the shape {a.shape}, {b.shape} was expected.")
    if not np.allclose(a, b, rtol=tolerance, atol=tolerance) or not math.isfinite(a.sum()):
        raise AssertionError(f"{what}: you gave\n{a}\nwhere\n{b}\nwas expected.")


def _experts(slots: jax.Array) -> jax.Array:
    return jnp.einsum("egcd,edf->egcf", slots, MATRICES)
