"""Models that read images take rows, columns and channels from the data: nothing of MNIST's size is written in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.config import make_config
from moejax.errors import UserError
from moejax.models import build_model
from moejax.models.pixels import pixels_of_tokens, pooled

SHAPES = {"grey": (20, 31), "colour": (16, 24, 3)}
MODELS = {
    "image": dict(stem=2, kernel=3, width=8, depth=1, neighbours=3),
    "flat": dict(second_hidden=None),
    "lstm": dict(width=8),
    "tasks": {},
}
GRIDS = {"image": {"grey": (4, 6), "colour": (3, 4)}, "lstm": {"grey": (20, 1), "colour": (16, 1)}}


def model_of(name, shape, **model):
    data = {"name": "mnist_tasks"} if name == "tasks" else {}
    config = make_config(
        data=data, model={"name": name, **MODELS[name], **model}, moe=dict(layer="dense", num_experts=2, hidden=4)
    )
    return build_model(config, (5, 2) if name == "tasks" else 5, nnx.Rngs(0), image_shape=shape)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_images_of_any_shape(name, kind):
    shape = SHAPES[kind]
    model = jax.eval_shape(lambda: model_of(name, shape))
    batch = {"image": jnp.zeros((3, *shape), jnp.uint8)}
    logits, (routing,) = jax.eval_shape(lambda model: model(batch, train=False), model)
    assert logits.shape == ((3, 2, 5) if name == "tasks" else (3, 5))
    assert routing.logits.shape[1] == model.tokens
    if name in GRIDS:
        assert model.grid == GRIDS[name][kind]
    if name != "tasks":
        content = jax.eval_shape(lambda model: model.content(batch), model)
        assert content.shape[:2] == (3, model.tokens)
        assert content.shape[2] * model.tokens >= np.prod(shape)


def test_a_pixel_of_any_place_and_channel_counts():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 9, 3), np.uint8)
    for name in ("image", "flat"):
        model = jax.jit(lambda name=name: model_of(name, (6, 9, 3)))()
        gradient = jax.jit(jax.grad(lambda x, model=model: (model({"image": x}, train=False)[0] ** 2).sum()))
        assert (np.asarray(gradient(jnp.asarray(image, jnp.float32))) != 0).all(), name


def test_what_a_token_covers_has_all_channels_of_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    cells = np.asarray(pixels_of_tokens(jnp.asarray(image), (2, 3)))
    assert cells.shape == (2, 6, 3 * 2 * 3)
    padded = np.pad(image / 255, ((0, 0), (0, 1), (0, 0), (0, 0)))  # to whole cells of 3 × 2
    np.testing.assert_allclose(cells[1, 4], padded[1, 3:6, 2:4].ravel(), rtol=1e-6)


def test_means_of_squares_are_of_each_channel():
    image = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    want = image.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(pooled(jnp.asarray(image), 2), want, rtol=1e-5)


def test_squares_must_fill_an_image_of_any_shape():
    assert jax.eval_shape(lambda: model_of("flat", (20, 32, 3), pool=4)).moe.router.kernel.shape[0] == 5 * 8 * 3
    with pytest.raises(UserError, match=r"^model\.pool is 8, which does not divide the 20 × 32 pixels of a side; use"):
        model_of("flat", (20, 32, 3), pool=8)
