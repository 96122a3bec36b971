"""Answers to the walk-through's exercises, in their order. Others are as good."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def top_2(logits):
    experts = jnp.argsort(-logits, axis=-1)[:, :2]
    return experts, jax.nn.softmax(jnp.take_along_axis(logits, experts, axis=-1))


def sparse_loop(x, chosen, weights, matrices):
    y = np.zeros(x.shape)
    for t in range(len(x)):
        for expert, weight in zip(chosen[t], weights[t], strict=True):
            y[t] += weight * (x[t] @ matrices[expert])
    return y


def slots_of(chosen, capacity):
    taken: dict[int, int] = {}
    slots = []
    for expert in chosen.tolist():
        slot = taken.get(expert, 0)
        slots.append(slot if slot < capacity else -1)
        taken[expert] = slot + 1
    return slots


def straight_through(p):
    return 1 + p - jax.lax.stop_gradient(p)


def balance_loss(probs, chosen):
    num_experts = probs.shape[-1]
    share = jnp.bincount(chosen.reshape(-1), length=num_experts) / chosen.size
    return num_experts * jnp.sum(share * probs.mean(0))


def chance(clean, others_best, deviation):
    return (1 + math.erf((clean - others_best) / deviation / math.sqrt(2))) / 2


def sees_the_future(layer, x):
    before = layer(x)
    return any(
        not jnp.allclose(before[:, :t], layer(x.at[:, t:].add(9.0 * (-1) ** s))[:, :t])
        for t in range(1, x.shape[1])
        for s in range(2)
    )


def soft_moe(x, phi, matrices):
    logits = jnp.einsum("td,dec->tec", x, phi)
    to_slots = jax.nn.softmax(logits, axis=0)
    from_slots = jax.nn.softmax(logits, axis=(1, 2))
    return jnp.einsum("tec,ecd->td", from_slots, jnp.einsum("tec,td,edf->ecf", to_slots, x, matrices))


def assigned_experts(num_labels, num_experts):
    return np.concatenate([[e] * len(part) for e, part in enumerate(np.array_split(range(num_labels), num_experts))])


def group_size(hidden, overhead):
    return int(hidden * overhead)


def inverse(rows, tokens, k):
    table = np.full((tokens, k), -1)
    for row, token in enumerate(rows):
        table[token, (table[token] >= 0).sum()] = row
    return table


def bytes_that_cross(tokens, k, factor, width, devices, bytes_a_number):
    slots = tokens * k * factor
    return 2 * slots * width * bytes_a_number * (devices - 1) / devices


ANSWERS = (
    *(top_2, sparse_loop, slots_of, straight_through, balance_loss, chance),
    *(sees_the_future, soft_moe, assigned_experts, group_size, inverse, bytes_that_cross),
)
