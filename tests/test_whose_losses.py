"""Each cell of the table "Whose loss is it?": another's formula, in NumPy, is this library's loss times a factor."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import best, softmax, squared_variation

import moejax
from moejax import losses
from moejax.routing import mask_tokens, noisy_top_k, softmax_top_k, vmoe_top_k

G, T, E, K = 4, 6, 5, 2
LOGITS = np.random.default_rng(0).normal(size=(G, T, E))
PROBS = np.apply_along_axis(softmax, -1, LOGITS)
FLAT = PROBS.reshape(-1, E)
NOISE = jax.random.key(0)


def chosen(probs, k):
    """How often each expert is among a token's k best, of tokens [t, e]."""
    return np.bincount(np.ravel([best(p, k) for p in probs]), minlength=E)


def routing(k=K):
    """Of G rows, each of which is a sequence."""
    found = softmax_top_k(jnp.asarray(LOGITS, jnp.float32), k)
    return found._replace(starts=jnp.arange(T)[None] == jnp.zeros((G, 1)))


def balance(over="global_batch", k=K):
    parts = {"micro_batches": G} if over == "micro_batch" else {}
    return losses.load_balance_loss(routing(k), over=over, **parts)


def times(factor, over="global_batch", k=K):
    return factor * balance(over, k)


def switch_paper(probs):
    """Fedus et al. 2021, equation 4 without its alpha."""
    return E * (chosen(probs, 1) / len(probs)) @ probs.mean(0)


def gshard_paper(probs):
    """Lepikhin et al. 2020, algorithm 1: the mean over experts of c_e / S · m_e."""
    return np.mean(chosen(probs, 1) / len(probs) * probs.mean(0))


def deepseek_paper(rows):
    """DeepSeek-V3 2024, equations 17 to 20 without alpha, of each row, with softmax scores."""
    return np.mean([E / (K * T) * chosen(row, K) @ row.mean(0) for row in rows])


def hugging_face_top_k(probs, k):
    """`load_balancing_loss_func` of Mixtral, OLMoE and Qwen-MoE, of one layer."""
    expert_mask = np.eye(E)[[best(p, k) for p in probs]]  # token, choice, expert
    return (expert_mask.mean(0) * probs.mean(0)[None]).sum() * E


def hugging_face_switch(rows):
    """`load_balancing_loss_func` of SwitchTransformers: the mean of what it is in each row."""
    expert_mask = np.eye(E)[rows.argmax(-1)]
    return (expert_mask.mean(-2) * rows.mean(-2)).mean() * E**2


def megatron(probs, tokens_per_expert, total_num_tokens):
    """`switch_load_balancing_loss_func`, without its coefficient."""
    return (probs.sum(0) * tokens_per_expert).sum() * E / (K * total_num_tokens * len(probs))


def deepseek_seq_aux(rows):
    """`MoEGate` of DeepSeek-V2 on Hugging Face's hub with `seq_aux`, without its alpha."""
    ce = np.array([chosen(row, K) for row in rows]) / (T * K / E)
    return (ce * rows.mean(1)).sum(1).mean()


def vmoe_gshard(rows):
    """`_gshard_auxiliary_loss`, the mean over groups."""
    top_1 = np.eye(E)[rows.argmax(-1)].mean(1)
    return ((top_1 * rows.mean(1)).mean(1) * E**2).mean()


def flaxformer(rows, k):
    """`_load_balancing_loss`: a choice counts once a token, means over the tokens of a group."""
    expert_mask = np.eye(E)[[[best(p, k) for p in row] for row in rows]].max(-2)
    return (expert_mask.mean(-2) * rows.mean(-2)).mean() * E**2


def z_of(logits):
    return np.mean([np.log(np.exp(token).sum()) ** 2 for token in logits.reshape(-1, E)])


def noisy():
    return noisy_top_k(jnp.asarray(LOGITS, jnp.float32), jnp.zeros((G, T, E)), K, NOISE)


def shazeer_load():
    """Shazeer et al. 2017, equations 8 to 11: against the k-th best of the others."""
    drawn, deviation = np.asarray(jax.jit(noisy)().logits, np.float64), np.log(2) + 0.01
    load = np.zeros(E)
    for g, t, e in np.ndindex(G, T, E):
        others = np.sort(np.delete(drawn[g, t], e))[::-1]
        load[e] += jax.scipy.stats.norm.cdf((LOGITS[g, t, e] - others[K - 1]) / deviation)
    return squared_variation(load)


def vmoe_routing():
    return vmoe_top_k(jnp.asarray(LOGITS, jnp.float32), K, NOISE)


COUNTS = [chosen(row, K) for row in PROBS]


def megatron_so_far(n):
    """`global_aux_loss` of the n-th micro-batch: the counts of all up to it, on average."""
    return megatron(PROBS[n], sum(COUNTS[: n + 1]) / (n + 1), T)


def ours_so_far(n):
    return losses.load_balance_loss(row(n), global_load=jnp.float32(sum(COUNTS[: n + 1])))


def row(n):
    return jax.tree.map(lambda a: a[n : n + 1], routing())


# By (row, column) of the table: what is theirs, and what of ours it has to be.
CASES = {
    ("global batch", "paper"): [
        (lambda: switch_paper(FLAT), lambda: balance(k=1)),
        (lambda: gshard_paper(FLAT), lambda: balance(k=1) / E**2),
    ],
    ("global batch", "Hugging Face"): [
        (partial(hugging_face_top_k, FLAT, k), partial(times, k, k=k)) for k in (1, 2, 3)
    ],
    ("global batch", "Megatron-LM"): [(partial(megatron_so_far, n), partial(ours_so_far, n)) for n in range(G)]
    + [(lambda: np.mean([megatron(row, sum(COUNTS) / G, T) for row in PROBS]), balance)],
    ("micro-batch", "Megatron-LM"): [
        (lambda: np.mean(list(map(megatron, PROBS, COUNTS, [T] * G))), lambda: balance("micro_batch"))
    ],
    ("micro-batch", "vmoe"): [(lambda: vmoe_gshard(PROBS), lambda: balance("micro_batch", k=1))],
    ("micro-batch", "flaxformer"): [
        (partial(flaxformer, PROBS, k), partial(times, k, "micro_batch", k=k)) for k in (1, 2, 3)
    ],
    ("sequence", "paper"): [(lambda: deepseek_paper(PROBS), lambda: balance("sequence"))],
    ("sequence", "Hugging Face"): [
        (lambda: hugging_face_switch(PROBS), lambda: balance("sequence", k=1)),
        (lambda: deepseek_seq_aux(PROBS), lambda: balance("sequence")),
    ],
    ("sequence", "Megatron-LM"): [
        (lambda: np.mean(list(map(megatron, PROBS, COUNTS, [T] * G))), lambda: balance("sequence"))
    ],
    **{
        ("z-loss", column): [(lambda: z_of(LOGITS), lambda: losses.router_z_loss(routing()))]
        for column in ("paper", "Hugging Face", "Megatron-LM", "flaxformer")
    },
    ("importance", "paper"): [
        (lambda: squared_variation(np.asarray(routing().gates).sum((0, 1))), lambda: losses.importance_loss(routing()))
    ],
    ("importance", "vmoe"): [
        (
            lambda: np.mean([squared_variation(group.sum(0)) for group in PROBS]),
            lambda: jax.vmap(lambda probs: losses.squared_variation(probs.sum(0)))(vmoe_routing().probs).mean(),
        )
    ],
    ("load", "paper"): [(shazeer_load, lambda: losses.load_loss(noisy()))],
}


@pytest.mark.parametrize("cell", CASES, ids=" ".join)
def test_theirs_is_ours_times_what_the_table_says(cell):
    for theirs, ours in CASES[cell]:
        np.testing.assert_allclose(jax.jit(ours)(), theirs(), rtol=2e-5)


def test_the_table_has_these_cells():
    text = (Path(moejax.__file__).parent / "README.md").read_text(encoding="utf-8")
    table = re.search(r"## Whose loss is it\?.*?(\n\|.*?)\n\n", text, re.DOTALL)[1].strip()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    said = {
        (key, column)
        for key in ("global batch", "micro-batch", "sequence", "z-loss", "importance", "load")
        for line in rows
        if line[0].endswith(key)
        for column, cell in zip(header[1:], line[1:], strict=True)
        if cell not in ("–", "other")
    }
    assert said == {*CASES}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_padding_counts_nowhere_in_hugging_faces_either(k):
    """Its attention mask is our mask."""
    mask = np.random.default_rng(k).random((G, T)) < 0.6
    found = mask_tokens(softmax_top_k(jnp.asarray(LOGITS, jnp.float32), k), jnp.asarray(mask))
    np.testing.assert_allclose(
        k * losses.load_balance_loss(found), hugging_face_top_k(FLAT[mask.reshape(-1)], k), rtol=1e-5
    )
