"""The numbers of an evaluation, by hand, and of any batches."""

import jax
import numpy as np
import pytest
import reference
from flax import nnx

from moejax import MLP, SparseMoE, metrics
from moejax.routing import ZeroComputation
from moejax.training.evaluate import Evaluation, evaluate, f1, routing_facts
from moejax.training.information import Tables


def test_f1():
    predicted = np.array([1, 1, 1, 0, 0], bool)
    true = np.array([1, 0, 1, 1, 0], bool)
    assert f1(predicted, true) == 2 / 3  # two right of three predicted and of three true
    assert f1(~true, true) == 0
    assert f1(np.zeros(3, bool), np.zeros(3, bool)) == 0


def test_facts_of_a_routing():
    gates = np.array([[[1, 0, 0], [0.5, 0.5, 0]], [[0, 1, 0], [0.5, 0.5, 0]]], np.float32)  # two examples, two layers
    load = np.array([[0.5, 0.5, 0], [0.25, 0.75, 0]], np.float32)
    result = Evaluation(
        0.0, 1.0, None, np.array([0, 1]), gates, load, np.array([0.1, 0.3]), np.zeros(2), np.array([2.0, 1.5])
    )._replace(tables=Tables(dict.fromkeys(("label", "position"), gates.swapaxes(0, 1)), np.zeros(2, np.float32)))
    data = {"label": np.array([0, 1]), "cluster": np.array([0, 1])}
    facts = routing_facts(result, data)
    assert set(facts.pop("experts_by")) == {"label", "position"}
    # Layer 0 sends each cluster to its own expert; layer 1 mixes both in either.
    np.testing.assert_allclose(facts.pop("dispatch_entropy"), [0, np.log(2)], atol=1e-6)
    assert "dispatch_entropy" not in routing_facts(result, {"label": data["label"]})
    assert facts == {
        "dropped": 0.2,
        "experts_per_token": [2.0, 1.5],
        "gate_entropy": [0.0, 0.0],
        "least_load": 0.0,
        "max_violation": 1.25,  # 3 · 0.75 - 1
        "dead_experts": 2,
        "label_information": [1.0, 0.0],
    }
    # The last expert computes nothing: no dead expert, and a load among two.
    result = result._replace(experts_computed=np.array([0.5, 1.0]), zero_computation=ZeroComputation(zero=1))
    facts = routing_facts(result, data)
    assert facts["experts_computed"] == [0.5, 1.0]
    assert (facts["dead_experts"], facts["least_load"], facts["max_violation"]) == (0, 0.5, 0.5)


class OfLayers(nnx.Module):
    """A sparse layer on examples of four tokens, some of them padding."""

    tokens = 4

    def __init__(self, router, capacity_factor, rngs):
        self.moe = SparseMoE(
            *(3, 4, lambda rngs: MLP(3, 5, rngs=rngs)),
            router=router,
            capacity_factor=capacity_factor,
            group_size=8,
            rngs=rngs,
        )

    def __call__(self, batch, *, train):
        y, routing = self.moe(batch["x"], train=train, mask=batch["mask"])
        return y.sum(1), (routing,)


@pytest.mark.parametrize(
    ("router", "capacity"), [("softmax_top_k", None), ("softmax_top_k", 0.5), ("expert_choice", 0.5)]
)
def test_what_is_told_of_tokens_is_their_mean_however_examples_fall_into_batches(router, capacity):
    rng = np.random.default_rng(0)
    real = np.arange(4) < np.array([4, 4, 4, 1, 1, 1, 2, 1])[:, None]
    data = {"x": rng.normal(size=(8, 4, 3)).astype(np.float32), "mask": real, "label": np.zeros(8, np.int32)}
    model = reference.randomly_filled(lambda: OfLayers(router, capacity, nnx.Rngs(0)))
    whole, parts = (evaluate(model, data, size) for size in (8, 2))
    for name in ("load", "dropped", "gate_entropy", "experts_per_token"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6, err_msg=name)
    _, routing = jax.jit(lambda model, x: model.moe(x, mask=real))(model, data["x"])
    np.testing.assert_allclose(whole.gate_entropy, [metrics.gate_entropy(routing)], rtol=1e-5)
