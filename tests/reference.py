"""The slow and obvious Mixture of Experts: Python loops over tokens in float64, for the tests to compare with.

First the routers, on the logits [t, e] of one group or [e] of one token; then the ways of dispatch; then whole layers.
There `p` holds a layer's parameters by name: router [d, e] or [d, e, c], up [e, d, h], up_bias [e, h], down [e, h, d],
down_bias [e, d], and a soft layer's scale. Tokens come as [g, t, d] in, and leave as [g, t, d].
"""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from moejax.routing import TopKRouting


def randomly_filled(build, seed=0, scale=0.7):
    """The module that `build()` makes, with every parameter, biases included, random and large enough to matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape, scale=scale), a.dtype), jax.eval_shape(build))


def draw(seed, *shape):
    """Normal float32 numbers of a seed."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def log(probs):
    """Logits whose softmax is `probs`."""
    return jnp.asarray(np.log(probs), jnp.float32)


def chosen(experts, num_experts):
    """A routing by its choices [g, t, k] alone, with equal weights."""
    experts = jnp.asarray(experts)
    flat = jnp.zeros((*experts.shape[:2], num_experts))
    return TopKRouting(flat, flat + 1 / num_experts, experts, jnp.ones(experts.shape) / experts.shape[-1])


def softmax(x):
    """Over all elements of `x`."""
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def mlp(p, e, token):
    """What expert e answers to one token; the GELU is the tanh form."""
    x = token @ p["up"][e] + p["up_bias"][e]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p["down"][e] + p["down_bias"][e]


def best(scores, k):
    """Indices of the k highest of one token's scores, best first, ties to the lower index."""
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]


def choose(logits, k, renormalize=True):
    """One token's k best experts, ties to the lower index, and their weights."""
    probs = softmax(logits)
    experts = best(probs, k)
    weights = probs[experts]
    return experts, weights / weights.sum() if renormalize and k > 1 else weights


def choose_then_softmax(logits, k):
    """One token's k best experts, and the softmax of their logits alone."""
    experts = best(logits, k)
    return experts, softmax(logits[experts])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sqrtsoftplus(x):
    return np.sqrt(np.logaddexp(0, x))


def choose_by_score(scores, k, bias, renormalize=True, scale=1.0, num_expert_groups=1, topk_group=1):
    """One token's experts by score + bias, within its best groups, and their weights by the score alone."""
    best_of_group = min(2, len(scores) // num_expert_groups)
    experts = best(limit_to_groups(scores + bias, num_expert_groups, topk_group, best_of_group), k)
    weights = scores[experts]
    return experts, scale * (weights / weights.sum() if renormalize and k > 1 else weights)


def choose_by_relu(logits):
    """One token's experts whose logit is above 0, best first, their weights, and the distribution over all experts."""
    experts = [e for e in best(logits, len(logits)) if logits[e] > 0]
    weights = logits[experts]
    probs = np.zeros(len(logits))
    probs[experts] = weights / weights.sum()
    return experts, weights, probs if experts else np.full(len(logits), 1 / len(logits))


def limit_to_groups(scores, num_expert_groups, topk_group, best_of_group):
    """One token's scores, -inf outside of the groups whose highest scores have the largest sums."""
    groups = np.split(scores, num_expert_groups)
    chosen = best([sum(sorted(group)[-best_of_group:]) for group in groups], topk_group)
    return np.concatenate([group if i in chosen else np.full(len(group), -np.inf) for i, group in enumerate(groups)])


def normal_cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def selection_probability(clean, noisy, deviation, k):
    """One token: of each expert, the probability that with new noise of its own it exceeds the k-th best other one."""
    out = np.ones(len(clean))
    for e in range(len(clean)):
        others = sorted(np.delete(noisy, e), reverse=True)
        if len(others) >= k:
            out[e] = normal_cdf((clean[e] - others[k - 1]) / deviation[e])
    return out


def sinkhorn(logits, iterations=2000):
    """The plan of one group [t, e] itself: rows that sum to 1/t, columns that sum to 1/e."""
    plan = np.exp(logits - logits.max())
    for _ in range(iterations):
        plan /= plan.sum(1, keepdims=True) * len(plan)
        plan /= plan.sum(0, keepdims=True) * plan.shape[1]
    return plan


def fill(experts, capacity, priority=None):
    """Slots [t, k] of one group's choices [t, k]: first choices first, then second choices; -1 when it is full.

    Tokens stand in order, or by their priority [t], highest first. A choice of -1 is padding and takes no slot.
    """
    slots, taken = np.full(np.shape(experts), -1), Counter()
    tokens = range(len(slots)) if priority is None else best(priority, len(slots))
    for choice in range(slots.shape[1]):
        for token in tokens:
            expert = int(experts[token][choice])
            if expert >= 0 and taken[expert] < capacity:
                slots[token, choice] = taken[expert]
                taken[expert] += 1
    return slots


def expert_choice(logits, capacity, mask=None, sigmoid=False):
    """Tokens [e, c] and weights [e, c] of one group's logits [t, e]: each expert's best tokens; -1 for no token."""
    probs = 1 / (1 + np.exp(-logits)) if sigmoid else np.array([softmax(token) for token in logits])
    tokens, weights = np.full((logits.shape[1], capacity), -1), np.zeros((logits.shape[1], capacity))
    for e in range(logits.shape[1]):
        real = [t for t in range(len(logits)) if mask is None or mask[t]]
        for c, t in enumerate(sorted(real, key=lambda t: (-probs[t, e], t))[:capacity]):
            tokens[e, c], weights[e, c] = t, probs[t, e]
    return tokens, weights


def sparse_apply(expert, x, routing):
    """y [g, t, d2] where expert(e, token) answers: each kept choice's answer, weighted, added up token by token."""
    routing = jax.tree.map(np.asarray, routing)
    y = np.zeros((*x.shape[:2], len(expert(0, x[0, 0]))))
    if hasattr(routing, "tokens"):
        for g, e, c in np.ndindex(routing.tokens.shape):
            t = routing.tokens[g, e, c]
            if t >= 0:
                y[g, t] += routing.weights[g, e, c] * expert(e, x[g, t])
        return y
    for g, t, choice in np.ndindex(routing.experts.shape):
        if (routing.experts if routing.slots is None else routing.slots)[g, t, choice] >= 0:
            y[g, t] += routing.weights[g, t, choice] * expert(routing.experts[g, t, choice], x[g, t])
    return y


def grouped_matmul(x, w, sizes):
    """Rows [r, d], in runs of `sizes`, each times its run's matrix of w [e, d, h]; zeros after the last run."""
    out, row = np.zeros((len(x), w.shape[2])), 0
    for e, size in enumerate(sizes):
        for _ in range(size):
            out[row] = x[row] @ w[e]
            row += 1
    return out


def grouped_outer(x, dy, sizes):
    """For each run of rows the sum of its outer products."""
    out, row = np.zeros((len(sizes), x.shape[1], dy.shape[1])), 0
    for e, size in enumerate(sizes):
        for _ in range(size):
            out[e] += np.outer(x[row], dy[row])
            row += 1
    return out


def squared_variation(values):
    """CV²: population variance over squared mean."""
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


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


def with_zero_computation(p, x, k, capacity, kinds, computing):
    """As `sparse_moe`, where a router's last experts, after so many that compute, are of these kinds."""
    y = np.zeros_like(x)
    names = ["zero"] * kinds.zero + ["copy"] * kinds.copy + ["constant"] * kinds.constant + ["null"] * kinds.null
    for g, group in enumerate(x):
        choices = [choose(token @ p["router"], k) for token in group]
        real = [[e if e < computing else -1 for e in experts] for experts, _ in choices]
        slots = fill(real, capacity)
        for t, (experts, weights) in enumerate(choices):
            others = [w for e, w in zip(experts, weights, strict=True) if e < computing + len(names) - kinds.null]
            grown = sum(weights) / sum(others) if others else 0
            for e, weight, slot in zip(experts, weights * grown, slots[t], strict=True):
                kind, token = "" if e < computing else names[e - computing], group[t]
                if slot >= 0:
                    y[g, t] += weight * mlp(p, e, token)
                elif kind == "copy":
                    y[g, t] += weight * token
                elif kind == "constant":
                    c = e - computing - kinds.zero - kinds.copy
                    of_token, of_constant = softmax(token @ p["mix"][c])
                    y[g, t] += weight * (of_token * token + of_constant * p["constant"][c])
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
