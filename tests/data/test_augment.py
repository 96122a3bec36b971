"""Augmentation: exact where the random numbers are known, lawful where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.data.augment import augment as everything
from moejax.data.augment import random_blur, random_part, random_warp, smooth_field

augment = jax.jit(random_warp, static_argnames=("shift", "rotate", "zoom", "elastic", "crop"))
blurred = jax.jit(random_blur, static_argnums=2)
ALL = {"shift": 3.0, "rotate": 30.0, "zoom": 0.3, "elastic": 1.0}


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
        return np.asarray(jax.jit(lambda images: random_warp(jax.random.key(0), images, **settings))(images))

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


def resized(image, part, corner):
    """The part of an image that begins at `corner` pixels and is `part` high and wide, as large as the whole; slowly.

    Output pixels have their centres at (n + 1/2) / size of the part; between four pixels the value is bilinear.
    """
    size = len(image)
    padded, out = np.pad(np.asarray(image, np.float64), 2), np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        y, x = (corner[a] + (n + 0.5) / size * part[a] - 0.5 + 2 for a, n in enumerate((i, j)))
        top, left = int(y), int(x)
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
                out[i, j] += down * right * padded[row, column]
    return out


def test_a_crop_is_the_part_resized_to_the_whole(monkeypatch):
    images = noise(2, 10)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0  # what lies beyond the border is 0
    # Of the first image rows 1 to 9 and columns 0.5 to 8.5; of the second rows 2 to 8 and all columns.
    part, corner = np.array([[0.8, 0.8], [0.6, 1.0]]), np.array([[0.1, 0.05], [0.2, 0.0]])
    monkeypatch.setattr(
        "moejax.data.augment.random_part", lambda *_: (jnp.asarray(part, jnp.float32), jnp.asarray(corner, jnp.float32))
    )
    out = jax.jit(lambda images: random_warp(jax.random.key(0), images, crop=0.5))(images)
    want = [resized(image, 10 * p, 10 * c) for image, p, c in zip(images, part, corner, strict=True)]
    np.testing.assert_allclose(out, want, atol=1e-2)


def test_a_quarter_of_an_image_of_four_pixels_by_hand(monkeypatch):
    # The lower right quarter of 4 × 4 pixels at full size: output rows 1 and 2 are at rows 2.25 and 2.75.
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, 2:, 2:] = [[10, 20], [30, 40]]
    half = jnp.full((1, 2), 0.5)
    monkeypatch.setattr("moejax.data.augment.random_part", lambda *_: (half, half))
    out = np.asarray(jax.jit(lambda image: random_warp(jax.random.key(0), image, crop=0.5))(image))
    # 10 + 0.25 · (30 - 10) + 0.25 · (20 - 10), and so on
    np.testing.assert_allclose(out[0, 1:3, 1:3], [[17.5, 22.5], [27.5, 32.5]], atol=1e-4)


def test_parts_have_torchvisions_areas_and_ratios_and_lie_inside():
    part, corner = jax.jit(random_part, static_argnums=(1, 2))(jax.random.key(0), 4000, 0.2)
    part, corner = np.asarray(part, np.float64), np.asarray(corner, np.float64)
    assert (corner >= 0).all()
    assert (corner + part <= 1 + 1e-6).all()
    whole = (part == 1).all(1)
    area, ratio = part.prod(1)[~whole], (part[:, 1] / part[:, 0])[~whole]
    assert 0.8 - 1e-6 <= area.min() < 0.805
    assert area.max() <= 1 + 1e-6
    # The log-ratio is uniform in ± ln 4/3 where the longer side, √(area · ratio), fits: |ln ratio| ≤ -ln area. So the
    # density of the area is as -ln area, and one draw fits with probability 0.0215 / (0.2 · ln 4/3) = 0.373.
    fits = (1 - 0.8 + 0.8 * np.log(0.8)) / (0.2 * np.log(4 / 3))
    assert abs(whole.mean() - (1 - fits) ** 10) < 4 * (0.0094 / 4000) ** 0.5
    assert abs(np.log(ratio).mean()) < 0.01
    assert (np.abs(np.log(ratio)) <= -np.log(area) + 1e-6).all()
    below = np.array([a - a * np.log(a) for a in (0.8, 0.85, 0.9, 1.0)])  # ∫ -ln a, at the borders of three bins
    share = np.diff(below) / (below[-1] - below[0])
    counts = np.histogram(area, [0.8, 0.85, 0.9, 1.0001])[0] / len(area)
    np.testing.assert_allclose(counts, share, atol=0.03)
    inside = corner[~whole] / (1 - part[~whole])
    np.testing.assert_allclose(inside[np.isfinite(inside).all(1)].mean(0), [0.5, 0.5], atol=0.02)


def test_an_elastic_field_is_smooth_noise_of_one_deviation_everywhere():
    field = np.asarray(jax.jit(smooth_field, static_argnums=(1, 2, 3))(jax.random.key(0), 4000, 20, 28), np.float64)
    assert field.shape == (4000, 2, 20, 28)
    # 4,000 squares of a normal number: their mean is within 5 standard errors of 1, at the border as in the middle.
    np.testing.assert_allclose((field**2).mean(0), 1, atol=5 * (2 / 4000) ** 0.5)
    np.testing.assert_allclose(field.mean(0), 0, atol=5 / 4000**0.5)
    # Far from the border, noise under a Gaussian of deviation 4 correlates as one of 4 √2: exp(-d² / 4 · 4²).
    for apart in (1, 4, 8):
        along = (field[:, :, 10, 10] * field[:, :, 10, 10 + apart]).mean()
        assert abs(along - np.exp(-(apart**2) / 64)) < 0.05
    assert abs((field[:, 0] * field[:, 1]).mean()) < 0.02  # down and right have nothing to do with each other


def test_an_elastic_map_moves_each_pixel_by_the_field(monkeypatch):
    # A field that is 0 but at one pixel, which takes its value from half a pixel below it and one to the right.
    field = jnp.zeros((1, 2, 6, 6)).at[0, :, 2, 3].set(jnp.array([0.5, 1.0]))
    monkeypatch.setattr("moejax.data.augment.smooth_field", lambda *_: field)
    images = noise(1, 6)
    out = np.asarray(jax.jit(lambda images: random_warp(jax.random.key(0), images, elastic=1.0))(images))
    want = images.astype(np.float64)
    want[0, 2, 3] = (want[0, 2, 4] + want[0, 3, 4]) / 2
    np.testing.assert_allclose(out, want, rtol=1e-5)


def test_a_crop_leaves_the_other_draws_as_they_are():
    images = np.repeat(blob(), 3, 0)
    with_crop, without = (np.asarray(augment(jax.random.key(0), images, **ALL, crop=crop)) for crop in (1e-6, 0.0))
    np.testing.assert_allclose(with_crop, without, atol=0.05)


def test_a_blur_by_hand(monkeypatch):
    image = np.zeros((1, 4, 5), np.uint8)
    image[0, 1, 3] = 100
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval, maxval: jnp.full(shape, maxval))
    # Deviation 1: neighbours weigh exp(-1/2) = 0.6065; the three sum to 2.2131. The border is mirrored, without itself:
    # row 0 has row 1 on both sides, and column 4 has column 3.
    middle, side = 1 / 2.21306, 0.60653 / 2.21306
    rows, columns = np.array([2 * side, middle, side, 0]), np.array([0, 0, side, middle, 2 * side])
    out = jax.jit(lambda image: random_blur(jax.random.key(0), image, 1.0))(image)
    np.testing.assert_allclose(out[0], 100 * np.outer(rows, columns), rtol=1e-4)


def test_a_blur_keeps_what_is_even_and_draws_anew_for_each_image():
    np.testing.assert_allclose(blurred(jax.random.key(0), np.full((3, 6, 6), 7, np.uint8), 2.0), 7, rtol=1e-5)
    out = np.asarray(blurred(jax.random.key(0), np.repeat(blob(), 200, 0), 2.0))
    peaks = out.max((1, 2)) / blob().max()
    assert peaks.max() > 0.999  # a deviation of 0.1 leaves an image as it is
    assert peaks.min() < 0.87
    assert len(np.unique(peaks)) > 150


def test_without_strengths_images_stay_bytes_and_with_all_each_has_its_turn():
    images = np.repeat(blob(), 3, 0)
    out = jax.jit(lambda images: everything(jax.random.key(0), images))(images)
    assert out.dtype == jnp.uint8
    np.testing.assert_array_equal(out, images)
    key = jax.random.key(3)
    both = jax.jit(lambda images: everything(key, images, shift=2.0, crop=0.2, blur=2.0))(images)
    moved = augment(key, images, shift=2.0, crop=0.2)
    np.testing.assert_allclose(both, blurred(jax.random.fold_in(key, 2), moved, 2.0), rtol=1e-4, atol=1e-3)
    assert np.abs(np.asarray(both) - np.asarray(moved)).max() > 5


def test_all_channels_of_an_image_are_moved_and_blurred_alike():
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 3), np.uint8)
    settings = dict(ALL, crop=0.3, blur=1.0)
    whole = jax.jit(lambda images: everything(jax.random.key(0), images, **settings))
    grey = np.stack([whole(images[..., c]) for c in range(3)], axis=-1)
    np.testing.assert_allclose(whole(images), grey, rtol=1e-5, atol=1e-3)
