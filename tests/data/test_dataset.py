"""Holding out validation rows: a partition, drawn by the seed, in the original order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.data.dataset import Dataset, concatenate, first, hold_out, rows, take
from moejax.errors import UserError


def numbered(count: int) -> Dataset:
    train = {"image": np.arange(count, dtype=np.uint8)[:, None], "label": np.arange(count, dtype=np.int32)}
    return Dataset("numbers", "dir", "here", {}, train, take(train, slice(0)), take(train, slice(2)), num_classes=count)


@given(st.integers(1, 50), st.integers(0, 49), st.integers(0, 2**32))
def test_train_and_validation_are_a_partition_in_the_original_order(count, validation, seed):
    validation = min(validation, count - 1)
    split = hold_out(numbered(count), validation, seed)
    held, kept = split.validation["label"], split.train["label"]
    assert (rows(split.validation), rows(split.train)) == (validation, count - validation)
    assert sorted([*held, *kept]) == list(range(count))
    assert sorted(held) == list(held)
    assert sorted(kept) == list(kept)
    for part in (split.train, split.validation):
        np.testing.assert_array_equal(part["image"][:, 0], part["label"])


def test_the_seed_decides_and_the_rows_are_these():
    assert hold_out(numbered(10), 3, seed=0).validation["label"].tolist() == [2, 4, 6]
    assert hold_out(numbered(10), 3, seed=1).validation["label"].tolist() != [2, 4, 6]


def test_no_validation_is_an_empty_split_of_the_right_shape():
    split = hold_out(numbered(10), 0, seed=0)
    assert split.validation["image"].shape == (0, 1)
    assert split.validation["label"].dtype == np.int32
    np.testing.assert_array_equal(split.train["label"], np.arange(10))


@pytest.mark.parametrize("validation", [-1, 10, 11])
def test_impossible_numbers_name_the_field(validation):
    with pytest.raises(UserError) as error:
        hold_out(numbered(10), validation, seed=0)
    assert str(error.value) == (
        f"--data.validation={validation} cannot be held out of 10 training examples: choose a number from 0 to 9."
    )


def test_a_limit_leaves_the_first_rows_and_none_leaves_all():
    split = hold_out(numbered(10), 3, seed=0)  # 7, 3 and 2 rows
    few = first(split, 4, 2)
    assert [rows(part) for part in (few.train, few.validation, few.test)] == [4, 2, 2]
    np.testing.assert_array_equal(few.validation["image"], split.validation["image"][:2])
    assert [rows(part) for part in (few.train, first(split, None, 1).train)] == [4, 7]
    assert rows(first(split, 100, None).test) == 2


def test_concatenate():
    train = numbered(3).train
    assert concatenate(train, take(train, np.array([2, 0])))["label"].tolist() == [0, 1, 2, 2, 0]
