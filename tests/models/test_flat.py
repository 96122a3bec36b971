"""The flat classifier: a mixture of whole classifiers, by a loop over them; guided in training and never after it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled, softmax

from moejax.config import make_config
from moejax.errors import UserError
from moejax.models import build_model
from moejax.models.flat import Perceptron
from moejax.models.pixels import standardized
from moejax.routing import DenseRouting, SoftRouting, TopKRouting


def config(layer="dense", model=(), data=(), **moe):
    shape = {"num_experts": 3, "hidden": 4}
    if layer == "sparse":
        shape |= {"k": 2, "capacity_factor": None, "eval_capacity_factor": None}
    return make_config(
        data=dict(data),
        model={"name": "flat", "second_hidden": 5, **dict(model)},
        moe=dict(layer=layer, **(shape | moe)),
    )


def make(config, labels=10):
    return randomly_filled(lambda: build_model(config, labels, nnx.Rngs(0)), scale=0.2)


def batch(count=3, labels=10):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, labels, count).astype(np.int32)
    return {"image": image, "label": label}


@jax.jit(static_argnames="train")
def classify(model, batch, train=False, key=None):
    return model(batch, train=train, key=key)


def normalised(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def perceptron(module, e, x, *, normalize, activation):
    """Expert e (None: the module is no stack) on one image in float64."""
    linear = [[np.asarray(a[...], np.float64) for a in (m.kernel, m.bias)] for m in module.linear]
    for i, (kernel, bias) in enumerate(linear if e is None else [(k[e], b[e]) for k, b in linear]):
        if i:
            x = activation(x)
        x = (normalised(x) if normalize else x) @ kernel + bias
    return x


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("activation", "normalize"), [("relu", True), ("gelu", False)])
def test_a_dense_one_equals_a_loop_over_images_and_experts(activation, normalize):
    c = config(model={"activation": activation, "normalize": normalize, "deep_gate": True}, temperature=2.0)
    model, data = make(c), batch()
    logits, (routing,) = classify(model, data)
    options = {"normalize": normalize, "activation": {"relu": relu, "gelu": gelu}[activation]}
    for n, image in enumerate(data["image"].astype(np.float64)):
        x = (image.reshape(-1) / 255 - 0.1307) / 0.3081
        gates = softmax(perceptron(model.moe.router.gate, None, x, **options) / 2)
        answers = [perceptron(model.moe.experts, e, x, **options) for e in range(3)]
        np.testing.assert_allclose(routing.gates[n, 0], gates, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(logits[n], gates @ answers, rtol=2e-3, atol=2e-3)


def test_an_expert_may_have_one_hidden_layer():
    model, data = make(config(model={"second_hidden": None}, num_experts=1)), batch()
    logits, _ = classify(model, data)
    for n, image in enumerate(data["image"].astype(np.float64)):
        x = (image.reshape(-1) / 255 - 0.1307) / 0.3081
        expected = perceptron(model.moe.experts, 0, x, normalize=False, activation=gelu)
        np.testing.assert_allclose(logits[n], expected, rtol=2e-3, atol=2e-3)
    assert len(model.moe.experts.linear) == 2


def test_experts_may_be_grouped():
    by_slots, grouped = (make(config("sparse", {"normalize": True}, dispatch=way)) for way in ("einsum", "grouped"))
    data = batch(8)
    np.testing.assert_allclose(classify(grouped, data)[0], classify(by_slots, data)[0], rtol=1e-4, atol=1e-4)


def test_equal_images_have_the_same_hash_and_others_another():
    model, data = make(config("sparse", router="hash", k=1, num_experts=8)), batch(64)
    data["image"][1] = data["image"][0]
    _, (routing,) = classify(model, data)
    experts = np.asarray(routing.experts).ravel()[:64]
    assert experts[0] == experts[1]
    assert len(set(experts)) == 8


@pytest.mark.parametrize("layer", ["dense", "sparse", "soft"])
def test_a_router_may_read_a_coarse_image(layer):
    model, data = make(config(layer, {"pool": 4, "normalize": True})), batch()
    _, (fine,) = classify(model, data)
    mosaic = np.repeat(np.repeat(data["image"].reshape(-1, 7, 4, 7, 4).mean((2, 4)), 4, axis=1), 4, axis=2)
    _, (coarse,) = classify(model, data | {"image": mosaic})
    assert model.moe.router.kernel.shape[0] == 49
    np.testing.assert_allclose(fine.logits, coarse.logits, rtol=1e-4, atol=1e-5)


def test_squares_of_pixels_must_fill_the_image():
    with pytest.raises(
        UserError, match=r"^model\.pool is 3, which does not divide the 28 pixels of a side; use 1, 2, 4"
    ):
        build_model(config("sparse", {"pool": 3}), 10, nnx.Rngs(0))


def test_an_oracle_sends_an_image_to_the_expert_of_its_domain():
    oracle = config("sparse", {"oracle": True}, data={"name": "domains", "domains": 3}, router="hash", k=1)
    model, data = make(oracle), batch(6) | {"domain": np.array([2, 0, 1, 1, 0, 2], np.int32)}
    logits, (routing,) = classify(model, data)
    np.testing.assert_array_equal(routing.gates.reshape(-1, 3)[:6], np.eye(3)[data["domain"]])
    alone = jax.tree.map(lambda a: a[2], model.moe.experts)(standardized(jnp.asarray(data["image"][:1])).reshape(1, -1))
    np.testing.assert_allclose(logits[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "moe", "data", "sentence"),
    [
        ("dense", {}, {"name": "domains", "domains": 3}, "moe.layer is dense; it is for the sparse layer."),
        ("sparse", {"k": 2}, {"name": "domains", "domains": 3}, "moe.k is 2; an image has one domain, so use 1."),
        ("sparse", {"k": 1}, {"name": "mnist"}, "data.name is mnist, which has no domains; use domains."),
        ("sparse", {"k": 1}, {"name": "domains"}, "moe.num_experts is 3; the data have 4 domains."),
    ],
)
def test_an_oracle_needs_domains_and_an_expert_for_each(layer, moe, data, sentence):
    with pytest.raises(UserError, match=f"^model.oracle is true, but {re.escape(sentence)}$"):
        config(layer, {"oracle": True}, data=data, **moe)


@pytest.mark.parametrize(("layer", "kind"), [("dense", DenseRouting), ("sparse", TopKRouting), ("soft", SoftRouting)])
def test_every_layer_classifies(layer, kind):
    logits, (routing,) = jax.eval_shape(classify, make(config(layer)), batch())
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    assert isinstance(routing, kind)


def test_one_token_alone_makes_every_slot_of_a_soft_layer_that_token():
    _, (routing,) = classify(make(config("soft", slots=2)), batch())
    np.testing.assert_array_equal(routing.dispatch, np.ones((3, 1, 3, 2)))


@pytest.mark.parametrize("layer", ["dense", "sparse", "soft"])
def test_dropout_is_drawn_in_training_alone_and_for_each_expert_anew(layer):
    model, data, key = make(config(layer, model={"dropout": 0.5})), batch(), jax.random.key(1)
    drawn, again, other = (classify(model, data, True, k)[0] for k in (key, key, jax.random.key(2)))
    np.testing.assert_array_equal(drawn, again)
    assert np.abs(drawn - other).max() > 1e-3
    np.testing.assert_array_equal(classify(model, data, False, key)[0], classify(model, data)[0])


def test_a_deep_gate_draws_apart_from_the_experts():
    model = make(config(model={"dropout": 0.5, "deep_gate": True}))
    one, two = (classify(model, batch(), True, jax.random.key(s))[1][0].logits for s in (0, 1))
    assert np.abs(one - two).max() > 1e-3


def test_a_perceptron_drops_the_hidden_and_keeps_their_mean():
    module = Perceptron((2, 4000, 1), dropout=0.25, activation=lambda x: x, rngs=nnx.Rngs(0))
    module.linear[0].kernel[...], module.linear[0].bias[...] = jnp.zeros((2, 4000)), jnp.ones(4000)
    module.linear[1].kernel[...] = jnp.full((4000, 1), 1 / 4000)
    assert module(jnp.zeros(2)) == pytest.approx(1, rel=1e-5)
    dropped = float(module(jnp.zeros(2), key=jax.random.key(0))[0])
    assert dropped != pytest.approx(1, rel=1e-5)
    assert dropped == pytest.approx(1, abs=5 * (1 / 3 / 4000) ** 0.5)  # five deviations of the mean of 4000 of 0 or 4/3


@pytest.mark.parametrize(("labels", "experts"), [(10, 10), (10, 3), (2, 5)])
def test_a_guided_one_is_led_in_training_and_does_not_look_at_labels_after_it(labels, experts):
    model = make(config(model={"guided": True}, num_experts=experts), labels)
    data = batch(6, labels)
    _, (routing,) = classify(model, data, True, jax.random.key(0))
    expert = np.repeat(np.arange(experts), [labels // experts + (e < labels % experts) for e in range(experts)])
    np.testing.assert_array_equal(routing.assigned[:, 0], expert[data["label"]])
    share = 1 / (1 + np.exp(-1.0))  # sigmoid of the temperature
    mask = np.where(np.eye(experts)[routing.assigned[:, 0]] > 0, 0.9, 0.1 / (experts - 1))
    np.testing.assert_allclose(routing.gates[:, 0], share * routing.probs[:, 0] + (1 - share) * mask, rtol=1e-5)

    logits, (routing,) = classify(model, {"image": data["image"]})
    assert logits.shape == (6, labels)
    assert routing.assigned is None
    np.testing.assert_array_equal(routing.gates, routing.probs)
