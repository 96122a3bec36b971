"""A run's answers to the test examples, written and read back; what is damaged counts as absent."""

import io

import numpy as np
import pytest

from moejax.predictions import Predictions, pack, unpack


@pytest.mark.parametrize("classes", [2, 10, 300, 70_000])
@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_what_was_written_is_read(classes, shape):
    label, prediction = np.random.default_rng(0).integers(0, classes, (2, *shape))
    found = unpack(pack(Predictions(label, prediction, "digest")))
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.right, label == prediction)
    assert found.test_sha256 == "digest"


def test_ten_thousand_answers_are_small():
    label = np.random.default_rng(0).integers(0, 10, 10_000)
    prediction = np.where(np.arange(10_000) % 100 == 0, (label + 1) % 10, label)
    assert len(pack(Predictions(label, prediction, "0" * 64))) < 16_000


def test_what_is_not_whole_is_absent():
    for content in (b"", b"PK\x03\x04", pack(Predictions(np.arange(3), np.arange(4), ""))):
        assert unpack(content) is None
    for label, prediction in ((np.zeros(2), np.zeros(2)), (np.array([{}], object), np.zeros(1, int))):
        file = io.BytesIO()
        np.savez(file, label=label, prediction=prediction, test_sha256=np.array(""))
        assert unpack(file.getvalue()) is None
