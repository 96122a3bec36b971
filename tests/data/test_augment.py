"""Augmentation: exact where the random numbers are known, lawful where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.data.augment import random_affine

augment = jax.jit(random_affine, static_argnames=("shift", "rotate", "zoom"))
ALL = {"shift": 3.0, "rotate": 30.0, "zoom": 0.3}


def noise(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


def blob(size=28):
    """A blurred spot off the centre, as an image."""
    y, x = np.mgrid[:size, :size]
    return np.uint8(255 * np.exp(-((y - 10) ** 2 + (x - 16) ** 2) / 8))[None]


def centre_of_mass(images):
    """[b, 2]: row and column, from the centre of the image."""
    images = np.asarray(images, np.float64)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]] - (images.shape[1] - 1) / 2
    mass = images.sum((1, 2))
    return np.stack([(images * y).sum((1, 2)) / mass, (images * x).sum((1, 2)) / mass], axis=1)


@pytest.fixture
def augment_at(monkeypatch):
    """augment_at(1, images, ...) augments as if every random number were the highest it can be, at -1 the lowest."""

    def augment_at(at, images, **settings):
        def uniform(key, shape=(), dtype=float, minval=0.0, maxval=1.0):
            return jnp.full(shape, maxval if at > 0 else minval, jnp.float32)

        monkeypatch.setattr(jax.random, "uniform", uniform)
        return np.asarray(jax.jit(lambda images: random_affine(jax.random.key(0), images, **settings))(images))

    return augment_at


def test_all_zero_settings_change_nothing():
    images = noise(3, 28)
    out = augment(jax.random.key(0), images)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, images)


@pytest.mark.parametrize("at", [1, -1])
def test_a_move_of_whole_pixels_is_exact(augment_at, at):
    images = noise(2, 9)
    out = augment_at(at, images, shift=2.0)
    # Pixel (i, j) of the output is (i + 2, j + 2) of the image, or the other way round; outside it is 0.
    want = np.zeros_like(images)
    if at > 0:
        want[:, :-2, :-2] = images[:, 2:, 2:]
    else:
        want[:, 2:, 2:] = images[:, :-2, :-2]
    np.testing.assert_array_equal(out, want)


def test_a_move_of_half_a_pixel_is_the_mean_of_four(augment_at):
    images = noise(1, 5)
    out = augment_at(1, images, shift=0.5)
    padded = np.pad(images[0].astype(np.float64), ((0, 1), (0, 1)))
    want = (padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]) / 4
    inside = np.s_[:-1, :-1]  # beyond the border "constant" mode may fade or cut
    np.testing.assert_allclose(out[0][inside], want[inside], rtol=1e-5)


@pytest.mark.parametrize("at", [1, -1])
def test_a_quarter_turn_is_rot90(augment_at, at):
    images = noise(2, 8)
    out = augment_at(at, images, rotate=90.0)
    np.testing.assert_allclose(out, np.rot90(images, -at, axes=(1, 2)), atol=1e-2)


def test_half_the_size_takes_every_second_pixel_from_the_centre(augment_at):
    images = noise(1, 9)
    out = augment_at(-1, images, zoom=0.5)
    want = np.zeros((9, 9))
    want[2:7, 2:7] = images[0, ::2, ::2]
    np.testing.assert_allclose(out[0], want, atol=1e-3)


def test_moves_are_uniform_within_the_shift_in_both_directions():
    # Bilinear interpolation moves a centre of mass exactly; the spot stays inside.
    out = augment(jax.random.key(0), np.repeat(blob(), 500, 0), shift=4.0)
    moves = centre_of_mass(out) - centre_of_mass(blob())
    assert np.abs(moves).max() <= 4.01
    # A uniform number in ±4 has mean 0 and deviation 4 / √3 = 2.31; 500 of them are within 4 standard errors.
    np.testing.assert_allclose(moves.mean(0), [0, 0], atol=4 * 2.31 / 500**0.5)
    np.testing.assert_allclose(moves.std(0), [2.31, 2.31], rtol=0.1)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 4 / 500**0.5


def test_a_small_turn_keeps_the_spots_distance_from_the_centre():
    out = augment(jax.random.key(1), np.repeat(blob(), 50, 0), rotate=10.0)
    before, after = centre_of_mass(blob()), centre_of_mass(out)
    np.testing.assert_allclose(np.hypot(*after.T), np.hypot(*before.T)[0], atol=0.05)
    angles = np.rad2deg(np.arctan2(*after.T) - np.arctan2(*before.T))
    assert 5 < np.abs(angles).max() <= 10.5
    assert angles.min() < 0 < angles.max()


def test_zoom_scales_the_mass_by_the_square_of_the_size():
    out = augment(jax.random.key(2), np.repeat(blob(), 50, 0), zoom=0.2)
    sizes = np.sqrt(np.asarray(out).sum((1, 2)) / blob().sum())
    assert 0.79 < sizes.min() < 0.9
    assert 1.1 < sizes.max() < 1.21
    # the spot moves away from the centre by the same factor
    np.testing.assert_allclose(np.hypot(*centre_of_mass(out).T) / np.hypot(*centre_of_mass(blob()).T), sizes, rtol=0.05)


def test_each_image_has_its_own_draw_and_each_key_its_own_batch():
    images = np.repeat(blob(), 3, 0)
    first, again, other = (np.asarray(augment(jax.random.key(key), images, **ALL)) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    for a, b in ((first[0], first[1]), (first[1], first[2]), (first[0], first[2]), (first[0], other[0])):
        assert np.abs(a - b).max() > 10


def test_values_stay_between_0_and_255():
    images = np.concatenate([noise(2, 28), np.full((1, 28, 28), 255, np.uint8)])
    out = np.stack([augment(jax.random.key(key), images, **ALL) for key in range(10)])
    assert out.min() >= 0
    assert out.max() <= 255 * (1 + 1e-6)
