"""IDX: what is encoded decodes to the same array, and nothing else decodes at all."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moejax.data import idx
from moejax.errors import UserError

ARRAYS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
CONTENT = idx.encode(IMAGES)


def test_the_bytes_of_a_small_file():
    assert bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, *range(12)]) == CONTENT
    assert struct.unpack(">I", CONTENT[:4]) == (2051,)
    assert idx.size((2, 3, 2)) == len(CONTENT) == 28


@given(ARRAYS)
def test_round_trip(array):
    decoded = idx.decode(idx.encode(array), array.shape, "x")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array)


@given(ARRAYS, st.data())
def test_a_file_cut_anywhere_is_an_error(array, data):
    content = idx.encode(array)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UserError, match=r"^x .*: .*\.$"):
        idx.decode(content[:cut], array.shape, "x")


@given(st.binary(max_size=64))
def test_any_bytes_are_the_file_of_one_array_or_an_error(content):
    try:
        array = idx.decode(content, (2, 3), "x")
    except UserError:
        return
    assert idx.encode(array) == content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "x is too short to be an IDX file (0 bytes): download it again."),
        (
            b"\x89PNG....",
            "x is not an IDX file of bytes (magic number 2303741511, expected 2051): download it again.",
        ),
        (
            b"\0\0\x0d\x03" + CONTENT[4:],
            "x is not an IDX file of bytes (magic number 3331, expected 2051): download it again.",
        ),
        (
            idx.encode(IMAGES[:, 0, 0]),
            "x holds an array of rank 1, expected rank 3 (magic number 2049, expected 2051): "
            "check that images and labels were not swapped.",
        ),
        (CONTENT[:9], "x is truncated inside its header (9 bytes): download it again."),
        (
            idx.encode(IMAGES[:1]),
            "x holds an array of shape 1 x 3 x 2, expected 2 x 3 x 2: "
            "check that train and test files were not swapped, or read another set by --data.name=idx.",
        ),
        (CONTENT[:-1], "x is truncated (27 bytes, expected 28): download it again."),
        (CONTENT + b"?", "x has bytes after its end (29 bytes, expected 28): download it again."),
    ],
)
def test_what_is_wrong_is_one_sentence(content, sentence):
    with pytest.raises(UserError) as error:
        idx.decode(content, IMAGES.shape, "x")
    assert str(error.value) == sentence
