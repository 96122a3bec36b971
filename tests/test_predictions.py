"""A run's answers to the test examples, written and read back; what is damaged counts as absent."""

import numpy as np
import pytest

from moejax.predictions import NAME, Predictions, pack, read


@pytest.mark.parametrize("classes", [2, 10, 300, 70_000])
@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_what_was_written_is_read(tmp_path, classes, shape):
    label, prediction = np.random.default_rng(0).integers(0, classes, (2, *shape))
    (tmp_path / NAME).write_bytes(pack(Predictions(label, prediction, "digest")))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.right, label == prediction)
    assert found.test_sha256 == "digest"


def test_ten_thousand_answers_are_small():
    label = np.random.default_rng(0).integers(0, 10, 10_000)
    prediction = np.where(np.arange(10_000) % 100 == 0, (label + 1) % 10, label)
    assert len(pack(Predictions(label, prediction, "0" * 64))) < 16_000


def test_what_is_not_whole_is_absent(tmp_path):
    assert read(tmp_path) is None
    for content in (b"", b"PK\x03\x04", pack(Predictions(np.arange(3), np.arange(4), ""))):
        (tmp_path / NAME).write_bytes(content)
        assert read(tmp_path) is None
    np.savez(tmp_path / NAME, label=np.zeros(2), prediction=np.zeros(2), test_sha256=np.array(""))
    assert read(tmp_path) is None
    np.savez(tmp_path / NAME, label=np.array([{}], object), prediction=np.zeros(1, int), test_sha256=np.array(""))
    assert read(tmp_path) is None
