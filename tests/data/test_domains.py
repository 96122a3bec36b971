"""Images in domains: each is changed as its domain says, and everything is the seed's."""

import math
import types

import numpy as np
import pytest

from moejax.data import DATASETS, domains, ink, load
from moejax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)


@pytest.fixture
def load_tiny(tiny, tmp_path, monkeypatch):
    """Loads 40 + 10 made-up images, or twice as many of `both`."""
    monkeypatch.setattr(domains, "SETS", {"mnist": (tiny.images,), "both": (tiny.images, tiny.images)})
    tiny.write(tmp_path / "tiny")
    return lambda **options: domains.load(dir=str(tmp_path), **{"validation": 5, **options})


def originals(tiny, split):
    return tuple(tiny.arrays[name] for name in domains.mnist.SPLITS[split])


def shown(images, labels):
    return {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}


def turned_by_a_loop(image, degrees):
    """Bilinear, pixel by pixel, in float64."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.zeros((28, 28))
    for i in range(28):
        for j in range(28):
            y, x = i - 13.5, j - 13.5
            row, column = cos * y + sin * x + 13.5, cos * x - sin * y + 13.5
            for r in range(28):
                for c in range(28):
                    turned[i, j] += max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c)) * image[r, c]
    return turned


def test_a_quarter_turn_moves_pixels_and_changes_none():
    for quarters in range(4):
        np.testing.assert_array_equal(domains.turn(90.0 * quarters)(IMAGES), np.rot90(IMAGES, quarters, (1, 2)))


def test_any_other_turn_equals_a_loop_over_pixels():
    turned = domains.turn(30.0)(IMAGES[:1])[0]
    assert np.abs(turned - turned_by_a_loop(IMAGES[0], 30)).max() <= 0.501


def test_orders_are_drawn_one_after_another():
    few, many, others = domains.orders(3, 0), domains.orders(5, 0), domains.orders(3, 1)
    np.testing.assert_array_equal(few, many[:3])
    np.testing.assert_array_equal(few[0], np.arange(784))
    assert (np.sort(many[4]) == np.arange(784)).all()
    assert (few[1] != others[1]).any()
    reordered = domains.reorder(few[1])(IMAGES)
    np.testing.assert_array_equal(reordered[2].ravel(), IMAGES[2].ravel()[few[1]])
    assert domains.reorder(few[1])(IMAGES[:0]).shape == IMAGES[:0].shape


@pytest.mark.parametrize("change", ["rotations", "permutations"])
def test_each_image_is_changed_as_its_domain_says(load_tiny, tiny, change):
    images, labels = originals(tiny, "test")
    test = load_tiny(change=change, domains=3, seed=5).test
    ways = {
        "rotations": [domains.turn(degrees) for degrees in (0.0, 120.0, 240.0)],
        "permutations": [domains.reorder(order) for order in domains.orders(3, 5)],
    }[change]
    for i, domain in enumerate(test["domain"]):
        np.testing.assert_array_equal(test["image"][i], ways[domain](images[i : i + 1])[0])
    np.testing.assert_array_equal(test["label"], labels)
    assert set(test["domain"]) == {0, 1, 2}
    assert {name: array.dtype for name, array in test.items()} == {
        "image": "uint8",
        "label": "int32",
        "domain": "int32",
    }


def test_an_angle_is_that_between_neighbours(load_tiny, tiny):
    test = load_tiny(domains=2, angle=30.0).test
    images, _ = originals(tiny, "test")
    expected = np.where((test["domain"] == 1)[:, None, None], domains.turn(30.0)(images), images)
    np.testing.assert_array_equal(test["image"], expected)


def test_of_both_sets_each_has_labels_and_domains_of_its_own(load_tiny, tiny):
    both = load_tiny(of="both", domains=1, validation=0)
    images, labels = originals(tiny, "train")
    assert (both.num_classes, len(both.train["label"]), len(both.test["label"])) == (20, 80, 20)
    for part in (0, 1):
        mine = both.train["domain"] == part
        assert shown(both.train["image"][mine], both.train["label"][mine]) == shown(
            images, labels.astype(int) + 10 * part
        )
    assert 5 < (both.train["domain"][:40] == 0).sum() < 35  # mixed, as a limit takes the first
    assert set(load_tiny(of="both", domains=2).train["domain"]) == {0, 1, 2, 3}


def test_whether_an_image_was_changed_leaves_what_it_shows_as_the_domain(load_tiny, tiny):
    images, labels = originals(tiny, "test")
    dataset = load_tiny(domains=2, angle=30.0, label="changed")
    same = (dataset.test["image"] == images).all((1, 2))
    np.testing.assert_array_equal(dataset.test["label"], ~same)
    np.testing.assert_array_equal(dataset.test["domain"], labels)
    assert dataset.num_classes == 2


def test_a_data_set_is_its_seed_s_and_validation_is_held_out_of_it(load_tiny):
    one, again, other = load_tiny(seed=3), load_tiny(seed=3), load_tiny(seed=4)
    for split in ("train", "validation", "test"):
        for name, array in getattr(one, split).items():
            np.testing.assert_array_equal(array, getattr(again, split)[name])
    assert (one.test["domain"] != other.test["domain"]).any()
    whole = {image.tobytes() for image in load_tiny(seed=3, domains=1, validation=0).train["image"]}
    apart = load_tiny(seed=3, domains=1, copies=2)
    held, left = ({image.tobytes() for image in getattr(apart, split)["image"]} for split in ("validation", "train"))
    assert (len(held), held | left, held & left) == (5, whole, set())
    assert (one.name, one.source, one.num_classes) == ("mnist in 4 rotations", "dir", 10)


def test_copies_are_of_training_images_alone_each_in_a_domain_of_its_own(load_tiny):
    one, three = load_tiny(domains=1), load_tiny(domains=1, copies=3)
    np.testing.assert_array_equal(three.train["image"], np.tile(one.train["image"], (3, 1, 1)))
    np.testing.assert_array_equal(three.train["label"], np.tile(one.train["label"], 3))
    assert [len(three.validation["label"]), len(three.test["label"])] == [5, len(one.test["label"])]
    drawn = load_tiny(domains=4, copies=3).train["domain"].reshape(3, -1)
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[1] != drawn[2]).any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"domains": 0}, r"^data\.domains is 0; it must be a whole number from 1 to 64\."),
        (
            {"domains": 1, "label": "changed"},
            r"^--data\.label=changed needs images that are changed: choose --data\.do",
        ),
        ({"domains": 1, "angle": 30.0}, r"^--data\.angle=30 turns nothing in one domain: choose --data\.domains of at"),
        (
            {"domains": 8, "angle": 90.0},
            r"^--data\.angle=90 turns images in 4 ways, not in 8: choose --data\.domains 4, or another angle\.",
        ),
        ({"domains": 3, "angle": 180.0, "label": "changed"}, r"turns images in 2 ways, not in 3"),
        ({"change": "permutations", "angle": 30.0}, r"^data\.angle is 30\.0, but data\.change is permutations; it has"),
        ({"of": "letters"}, r"^data\.of is letters; it must be one of mnist, fashion_mnist, both\."),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        load("domains", **arguments)


@pytest.mark.parametrize(("of", "want"), [("mnist", ink.MNIST), ("fashion_mnist", ink.FASHION_MNIST), ("both", None)])
def test_a_new_picture_becomes_one_of_the_images_that_there_are(of, want):
    assert DATASETS["domains"].ink_of(types.SimpleNamespace(of=of)) is want
