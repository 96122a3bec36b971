"""Images of one's own in an .npz file: names, shapes, numbers and labels as people have them, or a sentence."""

import zipfile

import numpy as np
import pytest

from moejax.data import load
from moejax.data.arrays import as_bytes, channels_last
from moejax.data.labels import numbered
from moejax.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 6, 5), np.uint8)
Y = np.arange(30) % 3


@pytest.fixture
def file(tmp_path):
    """file(x=…, y=…) writes an .npz file and gives its path."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


def refused(match, path, **options):
    with pytest.raises(UserError, match=match):
        load("arrays", dir=path, **options)


def test_x_and_y_are_split_by_the_seed(file):
    path = file(x=X, y=Y)
    data = load("arrays", dir=path)
    assert (data.classes, data.image_shape, data.origin) == (("0", "1", "2"), (6, 5), path)
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [21, 3, 6]
    assert set(data.sha256) == {"mine.npz"}
    order = [X.tolist().index(image.tolist()) for image in data.train["image"]]
    assert data.train["label"].tolist() == (Y[order]).tolist()


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),  # MedMNIST
        ("X", "Y", "X_valid", "Y_valid", "X_test", "Y_test"),
    ],
)
def test_splits_that_are_there_stay(file, names):
    arrays = [X[:20], Y[:20, None], X[20:24], Y[20:24, None], X[24:], Y[24:, None]]
    data = load("arrays", dir=file(**dict(zip(names, arrays, strict=True))))
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [20, 4, 6]
    order = np.random.default_rng(0).permutation(6)  # whatever the seed
    np.testing.assert_array_equal(data.test["label"], Y[24:][order])
    np.testing.assert_array_equal(data.test["image"], X[24:][order])


def test_channels_before_or_after_the_pixels():
    last = RNG.integers(0, 256, (4, 6, 5, 3), np.uint8)
    np.testing.assert_array_equal(channels_last(np.moveaxis(last, 3, 1), "x"), last)
    np.testing.assert_array_equal(channels_last(last, "x"), last)
    np.testing.assert_array_equal(channels_last(last[..., :1], "x"), last[..., 0])
    np.testing.assert_array_equal(channels_last(last[:, None, :, :, 0], "x"), last[..., 0])


@pytest.mark.parametrize(
    ("x", "want"),
    [
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([0, 1, 1]), [0, 255, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0.0, 127.6, 255.0]), [0, 128, 255]),
        (np.array([0, 7, 255], np.int64), [0, 7, 255]),
        (np.array([3, 7, 9], np.uint8), [3, 7, 9]),
    ],
)
def test_numbers_become_bytes(x, want):
    ((_, got),) = as_bytes({"train": x.reshape(3, 1, 1)}, "x")[0].items()
    assert got.dtype == np.uint8
    assert got.ravel().tolist() == want


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_resized_if_that_is_asked_for(file, channels):
    x = np.broadcast_to(RNG.integers(0, 256, (30, 1, 1, *channels), np.uint8), (30, 600, 3, *channels))
    data = load("arrays", dir=file(x=x, y=Y), size=8)
    assert data.image_shape == (8, 8, *channels)
    assert (data.train["image"] == data.train["image"][:, :1, :1]).all()


def test_all_splits_are_on_one_scale():
    bright, dark = np.full((1, 4, 4), 200.0), np.full((1, 4, 4), 1.0)
    assert as_bytes({"train": bright, "test": dark}, "x")[0]["test"].max() == 1


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.full((30, 6, 5), np.nan), r"\(train\) has NaN or infinity in image 0: mend it or leave it out"),
        (X - 3.0, r"has images of numbers from -3 to 252, expected 0 to 1, or 0 to 255: .+ \(x - x\.min\(\)\) /"),
        (X * 2.0, r"has images of numbers from 0 to 510, expected 0 to 1, or 0 to 255: .+ x / x\.max\(\)"),
        (X / 16, r"has images of numbers from 0 to 15\.9\d+, expected 0 to 1, or 0 to 255"),
        (X + 1j, r"has images of type complex128, expected numbers"),
        (X.reshape(30, 30), r"has flat images of shape \(30, 30\): .+ x\.reshape\(-1, rows, columns\)"),
        (X[:, :5].reshape(30, 25), r"has flat images of shape \(30, 25\): .+ x\.reshape\(-1, 5, 5\)"),
        (np.zeros((30, 6, 5, 2)), r"has images of shape \(30, 6, 5, 2\), expected \[n, rows, columns\] or"),
        (X[:, :0], r"has images of shape \(30, 0, 5\), expected"),
        (X[:, :3], r"has images of 3 × 5 pixels, expected 4 to 512 a side: resize them"),
        (X[:29], r"has 29 images and 30 labels: give each one"),
        (np.zeros((0, 6, 5)), r"has 0 images and 30 labels"),
        (np.array(list("abc"), object), r"cannot be read as an \.npz file of plain arrays \(Object arrays cannot be"),
    ],
)
def test_images_that_cannot_be_used(file, x, said):
    refused(said, file(x=x, y=Y))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_splits_without_images(file, dtype):
    none, x = np.zeros((0, 6, 5), dtype), X.astype(dtype)
    refused("has 0 classes: a network tells at least 2", file(x=none, y=Y[:0]))
    refused(
        "The test split of .+ is empty: fill it, or remove it", file(x_train=x, y_train=Y, x_test=none, y_test=Y[:0])
    )


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array([7, -1, 100, 7]), ("-1", "7", "100")),
        (np.array([2.0, 1.0, 2.0, 5.0]), ("1", "2", "5")),
        (np.array([True, False, True, True]), ("False", "True")),
        (np.array(["dog", "cat", "dog", "emu"]), ("cat", "dog", "emu")),
        (np.array([b"10", b"9", b"9", b"1"]), ("1", "9", "10")),
        (["10", "9", "9", "1"], ("1", "9", "10")),
    ],
)
def test_labels_of_any_kind_are_numbered_in_their_order(y, names):
    labels, classes = numbered({"train": y}, "x")
    assert classes == (names if np.asarray(y).dtype.kind != "b" else ("0", "1"))
    texts = [v.decode() if isinstance(v, bytes) else str(int(v) if np.asarray(y).dtype.kind in "bf" else v) for v in y]
    assert [classes[label] for label in labels["train"]] == texts


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.eye(3)[Y], r"\(train\) has labels of shape \(30, 3\), expected one an example: .+ y\.argmax\(1\)"),
        (Y + 0.5, r"\(train\) has the label 0\.5 in row 1, expected words or whole numbers"),
        (np.where(Y > 1, np.nan, Y), r"\(train\) has the label nan in row 3, expected words or whole numbers"),
        (np.where(Y > 1, "", "a"), r"\(train\) has no label in row 3: give it one, or leave the row out"),
        (np.zeros(30), r"has 1 classes \('0'\): a network tells at least 2 from each other"),
        (np.arange(30), r"^The class '0' of .+ has 1 training examples, too few to train and to hold out for test and"),
        (Y.astype("datetime64[D]"), r"has labels of type datetime64\[D\], expected words or whole numbers"),
    ],
)
def test_labels_that_cannot_be_used(file, y, said):
    refused(said, file(x=X, y=y))


def test_labels_of_lists():
    with pytest.raises(UserError, match=r"^x \(train\) has no label in row 2: give it one"):
        numbered({"train": [1, None]}, "x")
    with pytest.raises(UserError, match=r"^x has words for labels in one split and numbers in another"):
        numbered({"train": ["a", "b"], "test": [1, 2]}, "x")
    with pytest.raises(UserError, match=r"^x \(train\) has the label \[1\] among words: give each example a word"):
        numbered({"train": [[1], [1, 1]]}, "x")
    with pytest.raises(UserError, match=r"^x \(train\) has the label 'caf\\udce9', which is no text in UTF-8"):
        numbered({"train": ["a", "caf\udce9"]}, "x")


def test_arrays_that_are_not_there(file, tmp_path):
    with pytest.raises(UserError, match=r"^--data\.name=arrays needs an \.npz file: name it with --data\.dir"):
        load("arrays")
    refused(r"is not there: name an \.npz file", str(tmp_path / "none.npz"))
    refused(r"is a folder: name an \.npz file \(pictures in folders are --data\.name=images\)", str(tmp_path))
    refused(r"holds a, b: name the arrays x and y, or x_train, y_train, x_test and y_test", file(a=X, b=Y))
    refused(r"has x, but no y: add it", file(x=X))
    refused(r"has y_test, but no x_test: add it", file(x=X, y=Y, y_test=Y))
    refused(r"^The test split of .+ has the class '9', which the train", file(x=X, y=Y, x_test=X, y_test=Y * 9))
    refused(
        r"has images of several shapes \(train \(6, 5\), test \(5, 5\)\)", file(x=X, y=Y, x_test=X[:, :5], y_test=Y)
    )


def test_files_that_are_no_archive_of_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    for content in (b"", b"text", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        refused(
            r"mine\.npz cannot be read as an \.npz file of plain arrays \(.+\): write it with numpy\.savez", str(path)
        )
    np.save(tmp_path / "one.npy", X)
    refused(r"one\.npy cannot be read as an \.npz file", str(tmp_path / "one.npy"))


def test_a_bomb_is_not_unpacked(tmp_path):
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000000, 28, 28), }"
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("x.npy", header.ljust(127) + b"\n")
        archive.writestr("y.npy", b"")
    refused(r"mine\.npz cannot be read as an \.npz file of plain arrays", str(tmp_path / "mine.npz"))


def test_splits_on_two_scales_are_refused_and_what_is_not_used_is_told(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8), np.arange(40) % 2
    parts = {"x_train": x / 255, "y_train": y, "x_test": x, "y_test": y}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(UserError, match="from 0 to 1 in the train split, and up to 255 in the test split: bring all"):
        load("arrays", dir=str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", **parts | {"x_train": x, "x_tst": x})
    assert "Not used of the file: x_tst." in load("arrays", dir=str(tmp_path / "b.npz")).notes
    np.savez(tmp_path / "c.npz", x=np.float32(1), y=y)
    with pytest.raises(UserError, match="one number in place of images or labels"):
        load("arrays", dir=str(tmp_path / "c.npz"))
