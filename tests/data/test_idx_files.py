"""Other people's IDX files: of any length, size and labels; which belong together, and what is wrong with them."""

import gzip
import hashlib

import numpy as np
import pytest

from moejax.data import idx, load
from moejax.errors import UserError

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (30, 5, 7), np.uint8), (np.arange(30) % 3 + 1).astype(np.uint8)
ORDER = np.random.default_rng(0).permutation(6)  # of a split of 6, whatever the seed
TEST = RNG.integers(0, 256, (6, 5, 7), np.uint8), (np.arange(6) % 3 + 1).astype(np.uint8)


def write(folder, prefix="", train=TRAIN, test=TEST, test_name="t10k", packed=True):
    for name, split in (("train", train), (test_name, test)):
        for what, rank, array in (("images", 3, split[0]), ("labels", 1, split[1])) if split else ():
            content = idx.encode(array)
            path = folder / f"{prefix}{name}-{what}-idx{rank}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return str(folder)


def refused(match, folder, **options):
    with pytest.raises(UserError, match=match):
        load("idx", dir=str(folder), **options)


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_any_length_are_read(tmp_path, packed):
    data = load("idx", dir=write(tmp_path, packed=packed), validation=3)
    assert (data.classes, data.image_shape) == (("1", "2", "3"), (5, 7))
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [27, 3, 6]
    np.testing.assert_array_equal(data.test["image"], TEST[0][ORDER])
    np.testing.assert_array_equal(data.test["label"], TEST[1][ORDER] - 1)
    name = f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    assert data.sha256[name] == hashlib.sha256(idx.encode(TEST[0])).hexdigest()


def test_without_test_files_the_seed_draws_the_test(tmp_path):
    data = load("idx", dir=write(tmp_path, test=None))
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [21, 3, 6]


def test_sets_with_something_before_their_names(tmp_path):
    write(tmp_path, "emnist-letters-", test_name="test")
    data = load("idx", dir=str(tmp_path))
    assert data.notes[0] == "EMNIST's files hold images on their side: --data.transpose true sets them up."
    upright = load("idx", dir=str(tmp_path), transpose=True, prefix="emnist-letters")
    np.testing.assert_array_equal(upright.test["image"], TEST[0][ORDER].swapaxes(1, 2))
    write(tmp_path, "emnist-digits-")
    refused(r"but has those of 'emnist-digits', 'emnist-letters': name one with --data\.prefix\.$", tmp_path)
    refused(r"should hold the files of one set, mine-train-images-idx3-ubyte\(\.gz\)", tmp_path, prefix="mine")


def test_files_that_are_missing_or_go_ill_together(tmp_path):
    with pytest.raises(UserError, match=r"^--data\.name=idx needs the folder of the files: name it with --data\.dir"):
        load("idx")
    refused(r"none is not a folder: name the one that holds the IDX files", tmp_path / "none")
    refused(
        r"should hold the files of one set, train-images-idx3-ubyte\(\.gz\) and its siblings, but has none", tmp_path
    )
    write(tmp_path, test=(TEST[0], TEST[1][:5]))
    refused(r"\(test\) has 6 images and 5 labels: put the files of one set there", tmp_path)
    write(tmp_path, test=(TEST[0][:, :4], TEST[1]))
    refused(r"has images of several sizes to train and to test", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(r"lacks the labels of the test split: put the file beside the others", tmp_path)


WHOLE = idx.encode(TRAIN[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"ubyte\.gz is empty: download it again"),
        (b"text of no use", r"is not an IDX file of bytes \(magic number"),
        (gzip.compress(b"text of no use" * 99), r"is not an IDX file of bytes \(magic number"),
        (WHOLE[:-1], r"is truncated \(1065 bytes, expected 1066\)"),
        (WHOLE + b"x", r"has bytes after its end"),
        (gzip.compress(WHOLE)[:-9], r"is a truncated gzip file"),
        (gzip.compress(WHOLE + bytes(999)), r"unpacks to more than the expected 1066 bytes"),
        (idx.encode(TRAIN[1]), r"holds an array of rank 1, expected rank 3 .+: check that images and labels were not"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"says that it holds [\d,]+ bytes, more than 2,147,483,648: give a part"),
    ],
)
def test_damaged_files(tmp_path, content, said):
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    refused(rf"train-images-idx3-.*{said}", tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path):
    write(tmp_path)
    write(tmp_path, test_name="test")
    refused(r"has t10k-\S+ and test-\S+ for one split: move one away", tmp_path)
