"""What is missing of a run's three splits is drawn out of the training examples, of each class alike: laws of that."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moejax.data.splits import dataset_of

COUNTS = st.lists(st.integers(3, 60), min_size=2, max_size=6)


def made(counts, *, validation, test_size, seed, **others):
    """The data set of so many examples of each class, each with a number of its own."""
    label = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    splits = {"train": {"number": np.arange(len(label)), "label": label}, **others}
    options = dict(validation=validation, test_size=test_size, seed=seed)
    return dataset_of("mine", splits, [f"c{y}" for y in range(len(counts))], origin="x", sha256={}, **options)


def parts(data):
    return data.train, data.validation, data.test


@given(COUNTS, st.integers(0, 100), st.floats(0.01, 0.99), st.integers(0, 99))
def test_every_example_is_in_one_split_and_every_class_in_each(counts, validation, test_size, seed):
    data = made(counts, validation=validation, test_size=test_size, seed=seed)
    assert sorted(np.concatenate([part["number"] for part in parts(data)])) == list(range(sum(counts)))
    train, held, test = (np.bincount(part["label"], minlength=len(counts)) for part in parts(data))
    assert train.min() >= 1
    assert test.min() >= 1
    assert (held.min() >= 1) if validation else (held.sum() == 0)
    least = 2 if validation else 1  # left of each class
    want = np.clip(np.rint(test_size * np.array(counts)), 1, np.array(counts) - least)
    np.testing.assert_array_equal(test, want)
    assert (held <= np.maximum(1, np.rint(0.1 * np.array(counts)))).all()
    assert held.sum() <= max(validation, len(counts)) * bool(validation)


def test_no_more_than_asked_for_is_held_out():
    held = made([150] * 10, validation=15, test_size=0.2, seed=0).validation
    assert sorted(np.bincount(held["label"])) == [1] * 5 + [2] * 5
    held = made([3, 15, 22, 60, 60], validation=16, test_size=0.5, seed=0).validation  # a tenth of all
    np.testing.assert_array_equal(np.bincount(held["label"]), [1, 1, 2, 6, 6])


@given(COUNTS, st.integers(0, 99))
def test_the_seed_alone_decides(counts, seed):
    first, again = (made(counts, validation=9, test_size=0.2, seed=seed) for _ in range(2))
    for part, other in zip(parts(first), parts(again), strict=True):
        np.testing.assert_array_equal(part["number"], other["number"])


def test_a_test_split_that_is_there_is_the_same_for_every_seed():
    test = {"number": np.arange(100, 120), "label": np.arange(20, dtype=np.int32) % 2}
    a, b = (made([30, 30], validation=9, test_size=0.2, seed=seed, test=test) for seed in (0, 1))
    np.testing.assert_array_equal(a.test["number"], b.test["number"])
    assert set(a.test["number"]) == set(test["number"])
    assert (a.validation["number"] != b.validation["number"]).any()
    assert len(a.train["number"]) == 54  # a tenth of each class is held out
