"""The slow and obvious Mixture of Experts: Python loops over tokens in float64, for the tests to compare with.

`p` holds a layer's parameters by name: router [d, e] or [d, e, c], up [e, d, h], up_bias [e, h], down [e, h, d],
down_bias [e, d], and a soft layer's scale. Tokens come as [g, t, d] in, and leave as [g, t, d].
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np


def randomly_filled(build, seed=0, scale=0.7):
    """The module that `build()` makes, with every parameter, biases included, random and large enough to matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape, scale=scale), a.dtype), jax.eval_shape(build))


def softmax(x):
    """Over all elements of `x`."""
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def mlp(p, e, token):
    """What expert e answers to one token; the GELU is the tanh form."""
    x = token @ p["up"][e] + p["up_bias"][e]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p["down"][e] + p["down_bias"][e]


def choose(logits, k):
    """One token's k best experts, ties to the lower index, and their weights."""
    probs = softmax(logits)
    experts = sorted(range(len(probs)), key=lambda e: (-probs[e], e))[:k]
    weights = probs[experts]
    return experts, weights if k == 1 else weights / weights.sum()


def fill(experts, capacity):
    """Slots [t, k] of one group's choices [t, k]: first choices first, then second choices; -1 when it is full."""
    slots, taken = np.full(np.shape(experts), -1), Counter()
    for choice in range(slots.shape[1]):
        for token in range(slots.shape[0]):
            expert = int(experts[token][choice])
            if taken[expert] < capacity:
                slots[token, choice] = taken[expert]
                taken[expert] += 1
    return slots


def dense_moe(p, x):
    y = np.zeros_like(x)
    for g, t in np.ndindex(x.shape[:2]):
        for e, prob in enumerate(softmax(x[g, t] @ p["router"])):
            y[g, t] += prob * mlp(p, e, x[g, t])
    return y


def sparse_moe(p, x, k, capacity):
    y = np.zeros_like(x)
    for g, group in enumerate(x):
        choices = [choose(token @ p["router"], k) for token in group]
        slots = fill([experts for experts, _ in choices], capacity)
        for t, (experts, weights) in enumerate(choices):
            for expert, weight, slot in zip(experts, weights, slots[t], strict=True):
                if slot >= 0:
                    y[g, t] += weight * mlp(p, expert, group[t])
    return y


def soft_routing(p, x):
    """Dispatch and combine [g, t, e, c] of the paper: L = scale · l2norm(X) · l2norm(Φ), then its two softmaxes."""
    dispatch, combine = (np.zeros((*x.shape[:2], *p["router"].shape[1:])) for _ in range(2))
    for g, t, e, c in np.ndindex(dispatch.shape):
        token, slot = x[g, t], p["router"][:, e, c]
        norms = np.sqrt(token @ token + 1e-6) * np.sqrt(slot @ slot + 1e-6)
        dispatch[g, t, e, c] = combine[g, t, e, c] = p["scale"] * (token @ slot) / norms
    for g, t in np.ndindex(x.shape[:2]):
        combine[g, t] = softmax(combine[g, t])
    for g, e, c in np.ndindex(len(x), *p["router"].shape[1:]):
        dispatch[g, :, e, c] = softmax(dispatch[g, :, e, c])
    return dispatch, combine


def soft_moe(p, x):
    y = np.zeros_like(x)
    dispatch, combine = soft_routing(p, x)
    for g, e, c in np.ndindex(len(x), *p["router"].shape[1:]):
        mixture = sum(dispatch[g, t, e, c] * x[g, t] for t in range(x.shape[1]))
        answer = mlp(p, e, mixture)
        for t in range(x.shape[1]):
            y[g, t] += combine[g, t, e, c] * answer
    return y
