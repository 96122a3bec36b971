"""Losses and metrics on every kind of routing: the number a docstring says, by a loop over tokens, or a sentence."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import log, squared_variation

from moejax import losses, metrics
from moejax.routing import (
    DenseRouting,
    ExpertChoiceRouting,
    SoftRouting,
    TopKRouting,
    assign,
    dense_routing,
    expert_choice,
    mask_tokens,
    relu_routing,
    sigmoid_top_k,
    soft_routing,
    softmax_top_k,
)

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
SLOTS = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 3, 2)), jnp.float32)
MASK = jnp.array([[True, True, False, True, True], [True, False, False, True, False]])


def made():
    """One of each kind, with and without slots, chance, penalty and padding, by name."""
    top_2, masked = softmax_top_k(LOGITS, 2), mask_tokens(softmax_top_k(LOGITS, 2), MASK)
    return {
        "dense": dense_routing(LOGITS),
        "dense, masked": dense_routing(LOGITS, 0.5, MASK),
        "dense, guided": dense_routing(LOGITS)._replace(guided=jnp.full(LOGITS.shape, 1 / 3)),
        "top 1": softmax_top_k(LOGITS, 1),
        "top 2": top_2,
        "top 2, masked": masked,
        "top 2, slots": assign(top_2, 2),
        "top 2, slots, masked": assign(masked, 1),
        "top 2, chance": top_2._replace(selection_probability=top_2.probs**2),
        "top 2, chance, masked": masked._replace(selection_probability=masked.probs**2),
        "sigmoid": sigmoid_top_k(LOGITS, 2, bias=jnp.zeros(3)),
        "relu": relu_routing(LOGITS, 0.5),
        "relu, slots, masked": assign(mask_tokens(relu_routing(LOGITS, 0.5), MASK), 1),
        "expert choice": expert_choice(LOGITS, 2),
        "expert choice, masked": expert_choice(LOGITS, 2, MASK),
        "soft": soft_routing(SLOTS),
        "soft, masked": soft_routing(SLOTS, MASK),
        "nothing but padding": assign(mask_tokens(softmax_top_k(LOGITS, 2), jnp.zeros_like(MASK)), 2),
        "soft, nothing but padding": soft_routing(SLOTS, jnp.zeros_like(MASK)),
        "dense, no tokens": dense_routing(LOGITS[:0]),
        "soft, no tokens": soft_routing(SLOTS[:, :0]),
        "top 2, no tokens": softmax_top_k(LOGITS[:, :0], 2),
    }


ROUTINGS = jax.jit(made)()


def shares(routing, g, t):
    """A token's choices, 1 each, and its gates: the weight of each expert in its output, were nothing dropped."""
    choices, gates = np.zeros(3), np.zeros(3)
    if isinstance(routing, DenseRouting | SoftRouting):
        dense = routing.probs if isinstance(routing, DenseRouting) else routing.combine.sum(-1)
        gates += dense[g, t] if getattr(routing, "guided", None) is None else routing.guided[g, t]
        return gates, gates
    chose = (
        [pair for pair in zip(routing.experts[g, t], routing.weights[g, t], strict=True) if pair[0] >= 0]
        if isinstance(routing, TopKRouting)
        else [(e, routing.weights[g, e, c]) for e, c in np.argwhere(routing.tokens[g] == t)]
    )
    for expert, weight in chose:
        choices[expert] += 1
        gates[expert] += weight
    return choices, gates


def tokens(routing):
    """Of each token that is no padding: its logits, its distribution over experts, choices, gates and chance."""
    routing = jax.tree.map(np.asarray, routing)
    chance = getattr(routing, "selection_probability", None)
    for g, t in np.ndindex(routing.logits.shape[:2]):
        if routing.mask is None or routing.mask[g, t]:
            choices, gates = shares(routing, g, t)
            probs = gates if isinstance(routing, SoftRouting) else routing.probs[g, t].astype(float)
            logits = routing.logits[g, t].astype(float)
            yield logits, probs, choices, gates, None if chance is None else chance[g, t]


def mean(values):
    values = list(values)
    return sum(values) / max(len(values), 1)


def variation(of_tokens):
    total = sum(of_tokens) + np.zeros(3)
    return squared_variation(total) if total.any() else 0


def entropy(probs):
    return -sum(p * math.log(p) for p in np.ravel(probs) if p > 0)


def balance(routing):
    f, p = (mean(token[i] for token in tokens(routing)) for i in (2, 1))
    return 3 * np.sum(f * p) / max(np.sum(f), 1e-9)


def penalty(routing):
    activity, weight = (mean(token[i] for token in tokens(routing)) for i in (2, 3))
    return 0 if routing.sparsity_weight is None else 0.5 * np.sum(activity * weight)


def number_of_experts(routing):
    if isinstance(routing, TopKRouting | ExpertChoiceRouting):
        return mean(np.sum(token[2]) for token in tokens(routing))
    return 3 if len(list(tokens(routing))) else 0


def smooth_load(routing):
    return 0 if routing.selection_probability is None else variation(token[4] for token in tokens(routing))


def usage(routing):
    probs = mean(token[1] for token in tokens(routing))
    return sum(p * math.log(p * 3) for p in np.ravel(probs) if p > 0)


def share(routing):
    total = sum(token[2] for token in tokens(routing)) + np.zeros(3)
    return total / max(total.sum(), 1e-9)


def dropped(routing):
    if isinstance(routing, ExpertChoiceRouting):
        return mean(float(not token[2].any()) for token in tokens(routing))
    if isinstance(routing, TopKRouting) and routing.slots is not None:
        chosen = np.asarray(routing.experts) >= 0
        return np.sum(np.asarray(routing.slots)[chosen] < 0) / max(chosen.sum(), 1)
    return 0


# Each function: what it is of, what it says to use otherwise, and its value by a loop.
ALL, CHOICE = (DenseRouting, TopKRouting, ExpertChoiceRouting, SoftRouting), (TopKRouting,)
FUNCTIONS = {
    losses.load_balance_loss: (CHOICE, "usage_loss", balance),
    losses.importance_loss: (ALL, "", lambda r: variation(t[3] for t in tokens(r))),
    losses.load_loss: (CHOICE, "importance_loss", smooth_load),
    losses.sparsity_loss: (CHOICE, "entropy_loss", penalty),
    losses.router_z_loss: (ALL, "", lambda r: mean(math.log(np.exp(token[0]).sum()) ** 2 for token in tokens(r))),
    losses.entropy_loss: (ALL, "", lambda r: mean(entropy(token[1]) for token in tokens(r))),
    losses.usage_loss: (ALL, "", usage),
    metrics.load: (ALL, "", share),
    metrics.dropped: (ALL, "", dropped),
    metrics.experts_per_token: (ALL, "", number_of_experts),
    metrics.gate_entropy: (ALL, "", lambda r: mean(entropy(token[1]) for token in tokens(r))),
    metrics.confidence: (ALL, "", lambda r: mean(token[1].max() for token in tokens(r))),
}


def values():
    """All of them that are one, in one compiled program."""
    return {
        (function.__name__, name): function(routing)
        for function, (kinds, _, _) in FUNCTIONS.items()
        for name, routing in ROUTINGS.items()
        if isinstance(routing, kinds)
    }


@pytest.fixture(scope="module")
def computed():
    return jax.jit(values)()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_it_is_the_number_that_its_docstring_says_or_one_sentence(computed, function):
    kinds, instead, by_hand = FUNCTIONS[function]
    for name, routing in ROUTINGS.items():
        if isinstance(routing, kinds):
            got = computed[function.__name__, name]
            assert got.shape == ((3,) if function is metrics.load else ()), name
            np.testing.assert_allclose(got, by_hand(routing), rtol=2e-4, atol=1e-6, err_msg=name)
        else:
            kind = type(routing).__name__
            with pytest.raises(
                TypeError, match=rf"^{function.__name__} is of a TopKRouting, not of a {kind}; use {instead}"
            ):
                function(routing)


@pytest.mark.parametrize("name", ROUTINGS)
def test_assignment_is_of_a_router_over_experts(name):
    routing = ROUTINGS[name]
    assigned = jnp.ones(routing.logits.shape[:2], int)
    if isinstance(routing, SoftRouting):
        with pytest.raises(
            TypeError, match=r"^assignment_loss is of a DenseRouting or TopKRouting or .*Soft.*; use a d"
        ):
            losses.assignment_loss(routing, assigned)
        return
    right = [token[1][[1, 0, 2]] * [1, -1, -1] + [0, 1, 1] for token in tokens(routing)]
    want = mean(-np.log(np.maximum(of_token, np.exp(-100))).mean() for of_token in right)
    np.testing.assert_allclose(losses.assignment_loss(routing, assigned), want, rtol=1e-4)


def test_z_loss_of_a_soft_routing_by_hand():
    # One token with slots of 1, 2 and 3, 4: ln 10. Another one, of ones alone: ln 4.
    routing = soft_routing(log([[[[1, 2], [3, 4]], [[1, 1], [1, 1]]]]))
    want = (math.log(10) ** 2 + math.log(4) ** 2) / 2
    np.testing.assert_allclose(losses.router_z_loss(routing), want, rtol=1e-6)


def test_usage_without_tokens_is_0_and_its_gradient_that_of_the_entropy():
    np.testing.assert_array_equal(losses.usage_loss(ROUTINGS["nothing but padding"]), 0)
    gradient = jax.grad(lambda logits: losses.usage_loss(dense_routing(logits)))(log([[[0.5, 0.25, 0.25]]]))
    # d/dz of Σ p ln p is p · (ln p - Σ p ln p)
    p = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(gradient[0, 0], p * (np.log(p) - p @ np.log(p)), atol=1e-6)


def test_what_is_no_routing_or_no_table_is_one_sentence():
    """In plain functions, as users without the tests' shape checks have them."""
    routing = ROUTINGS["top 2"]
    by_name = {function.__name__: function for function in FUNCTIONS}
    for name, function in by_name.items():
        with pytest.raises(TypeError, match=rf"^{name} is of a .*Routing, not of a tuple; use "):
            plain(function)((jnp.zeros(3), routing))
    for name in ("relative_load", "max_violation", "dead_experts", "diversity"):
        for wrong in ((jnp.zeros(3), routing), 0.5):
            with pytest.raises(TypeError, match=rf"^{name} is of a routing or a load .*, not of a (tuple|float)\."):
                plain(getattr(metrics, name))(wrong)
    for name in ("dispatch_entropy", "label_information"):
        with pytest.raises(
            TypeError, match=rf"^{name} is of a table \[y, e\], not of a TopKRouting; use metrics\.label"
        ):
            plain(getattr(metrics, name))(routing)
    with pytest.raises(
        ValueError,
        match=r"^label_counts got gates \(2, 5, 3\) and labels \(5,\); give a label for each token, \(2, 5\)",
    ):
        plain(metrics.label_counts)(routing.gates, jnp.zeros(5, int), 2)
    with pytest.raises(ValueError, match=r"^assigned has the shape \(5,\); an expert for each token makes it \(2, 5\)"):
        plain(losses.assignment_loss)(routing, jnp.zeros(5, int))
    with pytest.raises(ValueError, match=r"^mean_square got parameters without a single number"):
        losses.mean_square({"a": jnp.zeros((0, 3))})


def plain(function):
    """The function without the tests' own type checks."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def test_tables_without_examples_are_0():
    assert metrics.dispatch_entropy(jnp.zeros((2, 3))) == 0
    assert metrics.label_information(jnp.zeros((2, 3))) == 0
