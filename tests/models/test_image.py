"""The image classifier: its patches are convolutions, its shapes and types, and presets of equal size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled

from moejax.config import make_config
from moejax.models import build_model
from moejax.models.image import ImageOptions, Neighbours, Stem, grid_of, patches
from moejax.presets import PRESETS
from moejax.routing import DenseRouting, SoftRouting, TopKRouting

KINDS = {"dense": DenseRouting, "sparse": TopKRouting, "soft": SoftRouting}


def tiny(layer, *, depth=1, dtype="float32", **moe):
    return make_config(
        model=dict(stem=2, kernel=2, stride=2, width=8, depth=depth),
        moe=dict(layer=layer, num_experts=3, hidden=4, **({"slots": 2} if layer == "soft" else {}), **moe),
        train=dict(dtype=dtype),
    )


def make(config):
    return randomly_filled(lambda: build_model(config, 10, nnx.Rngs(0)), scale=0.3)


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


@jax.jit(static_argnames="train")
def classify(model, image, train=False):
    return model({"image": image}, train=train)


@pytest.mark.parametrize(
    ("size", "stride", "i", "j"),
    [
        (1, 1, 4, 5),
        (1, 2, 7, 8),
        (2, 1, 4, 9),
        (2, 3, 4, 9),
        (3, 1, 7, 8),
        (3, 2, 7, 8),
        (3, 3, 7, 8),
        (5, 2, 4, 9),
        (4, 2, 7, 8),
        (6, 3, 14, 13),
        (6, 4, 9, 8),
        (2, 4, 9, 11),
    ],
)
def test_patches_and_a_matrix_product_are_a_convolution_with_same_padding(size, stride, i, j):
    rng = np.random.default_rng(size)
    kernel, x = rng.normal(size=(size, size, 2, 3)), rng.normal(size=(2, i, j, 2))
    kernel, x = jnp.asarray(kernel, jnp.float32), jnp.asarray(x, jnp.float32)
    want = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    b = math.gcd(size, stride)  # channels come by blocks of b × b pixels
    by_block = kernel.reshape(size // b, b, size // b, b, 2, 3).swapaxes(1, 2).reshape(-1, 3)
    got = jax.jit(patches, static_argnums=(1, 2))(x, size, stride) @ by_block
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_patches_of_a_small_image_by_hand():
    # 3 × 3 pixels, windows of 2 × 2 at stride 2: one row and column of zeros is padded below and to the right.
    x = jnp.asarray(np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1))
    windows = jax.jit(patches, static_argnums=(1, 2))(x, 2, 2)
    np.testing.assert_array_equal(windows, [[[[1, 2, 4, 5], [3, 0, 6, 0]], [[7, 8, 0, 0], [9, 0, 0, 0]]]])


@pytest.mark.parametrize(("stride", "side"), [(1, 14), (2, 7), (3, 5), (4, 4)])
def test_the_stem_makes_the_grid_of_tokens_that_the_configuration_says(stride, side):
    m = ImageOptions(stem=2, kernel=3, stride=stride, width=8)
    stem = randomly_filled(lambda: Stem(m, 1, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    images = jnp.zeros((4, 28, 28))
    assert jax.eval_shape(stem, images).shape == (4, *grid_of(m, (28, 28)), 8) == (4, side, side, 8)


def test_tokens_see_their_neighbours_by_a_residual_convolution():
    m = ImageOptions(stride=2, width=3, neighbours=3)
    module = randomly_filled(lambda: Neighbours(m, (7, 7), dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 49, 3)), jnp.float32)
    grid = jax.jit(lambda module, x: module.norm(x))(module, x).reshape(2, 7, 7, 3)
    kernel = module.convolution.kernel[...].reshape(3, 3, 3, 3)
    convolved = jax.lax.conv_general_dilated(grid, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    want = x + jax.nn.gelu(convolved + module.convolution.bias[...][None, None, None]).reshape(x.shape)
    np.testing.assert_allclose(jax.jit(lambda module, x: module(x))(module, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", KINDS)
def test_logits_and_routings_of_a_batch(layer):
    model, image = make(tiny(layer, depth=2)), images(2)
    logits, routings = classify(model, image)
    assert logits.shape == (2, 10)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert [type(routing) for routing in routings] == [KINDS[layer]] * 2  # depth 2
    # 2 images of 49 tokens and 3 experts; the sparse ones in groups of hidden / 4 = 1
    assert all(math.prod(routing.logits.shape[:3]) == 2 * 49 * 3 for routing in routings)


def test_the_stem_sees_pixels_standardised_by_mnists_mean_and_deviation(monkeypatch):
    seen, model = [], make(tiny("dense"))
    monkeypatch.setattr(Stem, "__call__", lambda self, x: seen.append(x) or jnp.zeros((len(x), 7, 7, 8)))

    @jax.jit
    def pixels(image):
        model({"image": image}, train=False)
        return seen.pop()

    black_and_white = np.stack([np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)])
    # (0 - 0.1307) / 0.3081 and (1 - 0.1307) / 0.3081
    np.testing.assert_allclose(pixels(black_and_white)[:, 5, 5], [-0.42421, 2.82149], rtol=1e-4)


def test_images_of_bytes_and_of_floats_give_the_same_logits():
    model, image = make(tiny("dense", depth=2)), images(2)
    (of_bytes, _), (of_floats, _) = classify(model, image), classify(model, image.astype(np.float32))
    np.testing.assert_allclose(of_bytes, of_floats, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", KINDS)
def test_an_image_is_classified_alike_wherever_it_is_in_the_batch(layer):
    model, image = make(tiny(layer, depth=2, **({"group_size": 49} if layer == "sparse" else {}))), images(2)
    (logits, _), (reversed_logits, _) = classify(model, image), classify(model, image[::-1])
    np.testing.assert_allclose(logits[::-1], reversed_logits, rtol=1e-4, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_sparse_tokens_may_compete_across_images():
    _, routings = jax.eval_shape(classify, make(tiny("sparse", group_size=14)), images(2))
    assert routings[0].slots.shape == (7, 14, 2)


def test_training_and_evaluation_differ_in_the_capacity_of_a_sparse_layer():
    model = make(tiny("sparse", capacity_factor=0.1, eval_capacity_factor=100.0, group_size=49))
    image = jnp.asarray(images(2))
    training, evaluation = (
        np.asarray(jax.jit(lambda train=train: model({"image": image}, train=train)[1][0].slots)())
        for train in (True, False)
    )
    # 49 tokens, 2 choices, 3 experts: ceil(0.1 · 98 / 3) = 4 slots, and one for each of 49 tokens
    assert training.min() == -1
    assert training.max() == 3
    assert evaluation.min() == 0


def test_bfloat16_keeps_parameters_logits_and_routers_in_float32():
    model = make(tiny("sparse", dtype="bfloat16"))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    logits, routings = jax.eval_shape(classify, model, images(2))
    assert logits.dtype == jnp.float32
    assert all(routing.probs.dtype == jnp.float32 for routing in routings)
    jaxpr = str(jax.make_jaxpr(classify)(model, images(2)))
    assert "bf16[2,7,7,8]" in jaxpr  # the stem's tokens


@pytest.mark.parametrize("layer", ["sparse", "soft"])
def test_every_parameter_gets_a_finite_gradient(layer):
    model, image = make(tiny(layer)), images(2)
    image[0] = 0  # a blank image
    gradient = jax.jit(jax.grad(lambda model: (classify(model, image, train=True)[0] ** 2).sum()))(model)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_the_three_mnist_presets_differ_in_size_by_their_routers_alone():
    totals, others = [], []
    for layer in KINDS:
        config = PRESETS[f"mnist_{layer}"].config
        model = jax.eval_shape(lambda config=config: build_model(config, 10, nnx.Rngs(0)))
        routers = [block.moe.router for block in model.blocks]
        totals.append(count(model))
        others.append(count(model) - count(routers))
    assert others[0] == others[1] == others[2]
    assert max(totals) <= 1.02 * min(totals), totals


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
