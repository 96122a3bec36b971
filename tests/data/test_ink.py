"""Pictures as MNIST's images: by hand, by laws of place, size and shade, and what cannot be one."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from moejax.data.ink import FASHION_MNIST, MNIST, doubts_of_ground, grounds
from moejax.errors import UserError


def drawn(columns=300, rows=400, scale=1.0, at=(0, 0)):
    """A hook of light ink on black."""
    picture = Image.new("L", (columns, rows))
    points = [(60 * scale + at[0], 60 * scale + at[1]), (200 * scale + at[0], 90 * scale + at[1])]
    points.append((90 * scale + at[0], 320 * scale + at[1]))
    ImageDraw.Draw(picture).line(points, fill=255, width=round(24 * scale))
    return np.asarray(picture)


def test_an_image_of_the_data_is_taken_as_it_is():
    image = np.zeros((28, 28), np.uint8)
    image[6:20, 9:15] = 200
    for ink in (MNIST, FASHION_MNIST):
        same, notes = ink.image_of(image, "it")
        np.testing.assert_array_equal(same, image)
        assert notes == []


def test_by_hand():
    """A bar of 40 × 10 pixels fills 20 × 5 of the box; its middle is the image's."""
    picture = np.zeros((100, 60), np.uint8)
    picture[5:45, 40:50] = 100
    image, notes = MNIST.image_of(picture, "it")
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:17] = 255
    np.testing.assert_array_equal(image, expected)
    assert notes == []
    wide, _ = FASHION_MNIST.image_of(picture, "it")
    assert (wide.max(1) == 255).all()
    assert np.flatnonzero(wide.any(0)).tolist() == [11, 12, 13, 14, 15, 16, 17]


def test_the_centre_of_mass_is_the_images():
    image, _ = MNIST.image_of(drawn(), "it")
    place = np.arange(28) + 0.5
    for axis in (0, 1):
        assert abs((image.sum(axis) * place).sum() / image.sum() - 14) <= 0.5
    inked = [np.flatnonzero(image.any(axis)) for axis in (0, 1)]
    assert max(np.ptp(i) + 1 for i in inked) == 20


def test_place_shade_and_ink_change_nothing_and_size_little():
    image, _ = MNIST.image_of(drawn(), "it")
    np.testing.assert_array_equal(MNIST.image_of(drawn(at=(70, 50)), "it")[0], image)
    np.testing.assert_array_equal(MNIST.image_of(drawn() // 255 * 120 + 30, "it")[0], image)
    inverted, notes = MNIST.image_of(255 - drawn(), "it")
    np.testing.assert_array_equal(inverted, image)
    assert notes == ["dark ink on light paper was inverted"]
    twice = MNIST.image_of(drawn(700, 900, scale=2.0), "it")[0]
    assert np.abs(twice.astype(int) - image).mean() < 6


def test_what_looks_unlike_a_digit_is_said():
    picture = np.zeros((50, 50), np.uint8)
    picture[5:45, 5:45] = 255
    (note,) = MNIST.image_of(picture, "it")[1]
    assert note == "it looks unlike the images learnt from: 51% of it is ink, which is much (MNIST: 13%)"
    assert FASHION_MNIST.image_of(picture, "it")[1] == []


@pytest.mark.parametrize("shade", [0, 100, 255])
def test_nothing_drawn_is_a_sentence(shade):
    with pytest.raises(UserError, match=rf"it has nothing drawn on it: its pixels are all about {shade} of 255"):
        MNIST.image_of(np.full((40, 50), shade, np.uint8), "it")
    assert MNIST.image_of(np.zeros((28, 28), np.uint8), "it")[1] == [
        "it looks unlike the images learnt from: 0% of it is ink, which is little (MNIST: 13%)"
    ]


def test_a_line_of_one_pixel_and_a_single_pixel_are_images():
    for shape in ((1, 40), (40, 1), (3, 3)):
        picture = np.zeros((60, 60), np.uint8)
        picture[10 : 10 + shape[0], 10 : 10 + shape[1]] = 255
        image, _ = MNIST.image_of(picture, "it")
        assert image.max() == 255


def test_a_ground_unlike_those_learnt_from_is_said():
    dark = np.random.default_rng(0).integers(0, 20, (300, 9, 8, 3), dtype=np.uint8)
    low, high = grounds(dark)
    assert 5 < low < high < 15
    assert doubts_of_ground(dark[0], (low, high)) == []
    (note,) = doubts_of_ground(255 - dark[0], (low, high))
    assert note.startswith("its edges are light, 24")
    assert note.endswith("it may have to be inverted")
    assert doubts_of_ground(dark[0], (200.0, 250.0))[0].startswith("its edges are dark")
    assert grounds(dark[:1])[0] == grounds(dark[:1])[1]
