"""The LSTM classifier: as many parameters as the original's, its experts, its shapes, and what it may see."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled, softmax

from moejax.config import make_config
from moejax.errors import UserError
from moejax.losses import load_loss
from moejax.models import build_model
from moejax.models.lstm import SoftmaxMLP
from moejax.presets import PRESETS
from moejax.routing import TopKRouting


def tiny(dispatch="grouped", dtype="float32", **moe):
    return make_config(
        model=dict(name="lstm", width=8),
        moe=dict(layer="sparse", num_experts=3, hidden=4, dispatch=dispatch, **moe),
        train=dict(dtype=dtype),
    )


def make(config, scale=0.5):
    return randomly_filled(lambda: build_model(config, 10, nnx.Rngs(0)), scale=scale)


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


@jax.jit(static_argnames="train")
def classify(model, image, key=None, train=False):
    return model({"image": image}, train=train, key=key)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_preset_has_as_many_parameters_as_the_original():
    model = jax.eval_shape(lambda: build_model(PRESETS["mnist_lstm"].config, 10, nnx.Rngs(0)))
    # An LSTM from d to h has 4h (d + h + 2): PyTorch keeps two biases, which are added, and so do we.
    assert count(model.first) == 4 * 256 * (28 + 256 + 2)
    assert count(model.second) == 4 * 256 * (256 + 256 + 2)
    assert count(model.moe.experts) == 10 * (256 * 512 + 512 + 512 * 256 + 256)
    assert count(model.moe.router) == 2 * 256 * 10
    assert count(model.head) == 28 * 256 * 10 + 10
    assert count(model) == 3_525_130


def test_the_preset_drops_no_token_and_begins_with_noise_alone():
    config = PRESETS["mnist_lstm"].config
    assert (config.moe.router, config.moe.k, config.moe.dispatch) == ("noisy_top_k", 2, "grouped")
    model = jax.jit(lambda: build_model(tiny(router="noisy_top_k"), 10, nnx.Rngs(0)))()
    assert not np.any(model.moe.router.kernel[...])
    assert not np.any(model.moe.router.spread[...])


def test_an_expert_is_two_linear_maps_a_relu_between_and_a_softmax_after():
    expert = randomly_filled(lambda: SoftmaxMLP(3, 5, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(2, 3))
    up, down = ([np.asarray(p[...], np.float64) for p in (m.kernel, m.bias)] for m in (expert.up, expert.down))
    want = [softmax(np.maximum(token @ up[0] + up[1], 0) @ down[0] + down[1]) for token in x]
    np.testing.assert_allclose(expert(jnp.asarray(x, jnp.float32)), want, rtol=1e-5)


def test_logits_and_the_routing_of_a_batch():
    logits, (routing,) = classify(make(tiny()), images(5))
    assert logits.shape == (5, 10)
    assert logits.dtype == jnp.float32
    assert isinstance(routing, TopKRouting)
    assert math.prod(routing.experts.shape) == 5 * 28 * 2
    assert routing.kept.all()


def test_the_dispatches_agree_where_nothing_is_dropped():
    image = images(3)
    grouped, gather, einsum = (
        classify(make(tiny(way, eval_capacity_factor=None)), image)[0] for way in ("grouped", "gather", "einsum")
    )
    np.testing.assert_allclose(gather, grouped, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(einsum, grouped, rtol=1e-4, atol=1e-5)


def test_an_image_is_classified_alike_wherever_it_is_in_the_batch():
    model, image = make(tiny()), images(3)
    (logits, _), (turned, _) = classify(model, image), classify(model, image[::-1])
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-4, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_a_row_is_routed_by_what_was_read_so_far():
    model, image = make(tiny()), images(1)
    later = image.copy()
    later[:, 20] ^= 255
    probs = [np.asarray(classify(model, i)[1][0].probs).reshape(-1, 3)[:28] for i in (image, later)]
    np.testing.assert_array_equal(probs[0][:20], probs[1][:20])
    assert np.abs(probs[0][20:] - probs[1][20:]).max() > 1e-4


def test_every_parameter_gets_a_finite_gradient_of_its_own_type():
    model, image = make(tiny(dtype="bfloat16", router="noisy_top_k")), images(2)
    image[0] = 0

    @jax.jit
    @jax.grad
    def gradient(model):
        logits, (routing,) = model({"image": jnp.asarray(image)}, train=True, key=jax.random.key(0))
        return (logits**2).sum() + load_loss(routing)

    for path, leaf in jax.tree.leaves_with_path(gradient(model)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_from_both_ends_a_first_row_knows_the_last_and_the_second_half_of_its_numbers_does():
    config = tiny().replace(model=dict(bidirectional=True))
    model, image = make(config), images(1)
    first = jax.jit(lambda model, image: model.first(image.reshape(1, 28, 28) / 255.0))
    moved = np.abs(first(model, image) - first(model, np.where(np.arange(28)[:, None] == 27, 255 - image, image)))
    assert not moved[0, :27, :4].any()
    assert (moved[0, :, 4:].max(-1) > 0).all()


def test_halves_of_an_odd_width_are_refused():
    with pytest.raises(UserError, match=r"model\.width is 7, of which model\.bidirectional makes two halves; use 8"):
        tiny().replace(model=dict(width=7, bidirectional=True))
