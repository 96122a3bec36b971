"""Pictures of one's own: folders, splits and classes; sizes and modes; and what is wrong with each, in a sentence."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from moejax.data import load, pictures
from moejax.errors import UserError


def grey(n, seed=0, shape=(20, 24)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def save(folder, name, arrays, ending="png"):
    """Arrays as pictures of the class `name`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / name / f"{i}.{ending}")
    return folder


def content(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def refused(match, folder, **options):
    with pytest.raises(UserError, match=match):
        load("images", dir=str(folder), **options)


@pytest.fixture
def two(tmp_path):
    """Twenty pictures of each of two classes, not split."""
    for seed, name in enumerate(("cat", "dog")):
        save(tmp_path, name, grey(20, seed))
    return tmp_path


def test_a_folder_a_class_is_split_by_the_seed_each_class_alike(two):
    data = load("images", dir=str(two), seed=3)
    assert (data.classes, data.num_classes, data.source, data.origin) == (("cat", "dog"), 2, "dir", str(two))
    sizes = {name: np.bincount(getattr(data, name)["label"]).tolist() for name in ("train", "validation", "test")}
    assert sizes == {"train": [14, 14], "validation": [2, 2], "test": [4, 4]}
    assert data.notes == ("Split by seed 3, each class alike: 28 to train, 4 to validate, 8 to test.",)
    assert data.image_shape == (20, 24)
    splits = [getattr(data, name)["image"] for name in sizes]
    found = {image.tobytes() for images in splits for image in images}
    assert found == {image.tobytes() for seed in range(2) for image in grey(20, seed)}  # as they are, each once
    again, other = load("images", dir=str(two), seed=3), load("images", dir=str(two), seed=4)
    assert (again.test["image"] == data.test["image"]).all()
    assert (other.test["image"] != data.test["image"]).any()
    assert again.sha256 == other.sha256 == data.sha256
    assert list(data.sha256) == ["all 40 pictures"]
    os.rename(two / "cat" / "0.png", two / "cat" / "00.png")
    assert load("images", dir=str(two)).sha256 != data.sha256


def test_shares_can_be_chosen(two):
    data = load("images", dir=str(two), test_size=0.5, validation=2)
    assert [len(data.train["label"]), len(data.validation["label"]), len(data.test["label"])] == [18, 2, 20]
    data = load("images", dir=str(two), validation=0)
    assert [len(data.train["label"]), len(data.validation["label"]), len(data.test["label"])] == [32, 0, 8]


@pytest.mark.parametrize("name", ["validation", "val", "Valid", "dev"])
def test_splits_that_are_there_stay(tmp_path, name):
    for seed, split in enumerate(("train", name, "test")):
        for c in "ab":
            save(tmp_path / split, c, grey(3 - seed, seed))
    data = load("images", dir=str(tmp_path))
    assert [sorted(getattr(data, s)["label"]) for s in ("train", "validation", "test")] == [
        [0, 0, 0, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 1],
    ]
    assert data.notes == ()
    assert len(load("images", dir=str(tmp_path), validation=0).train["label"]) == 10


def test_the_first_few_are_of_all_classes(two):
    assert set(load("images", dir=str(two)).train["label"][:8]) == {0, 1}


def test_a_folder_called_train_may_be_a_class(tmp_path):
    for name in ("car", "train"):
        save(tmp_path, name, grey(5))
    assert load("images", dir=str(tmp_path)).classes == ("car", "train")


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for name in ("10", "9", "1"):
        save(tmp_path, name, grey(3))
    assert load("images", dir=str(tmp_path)).classes == ("1", "9", "10")


def test_other_files_are_left_out_and_told_of(two):
    (two / "cat" / "deep").mkdir()
    Image.fromarray(grey(1)[0]).save(two / "cat" / "deep" / "more.PNG")
    (two / ".DS_Store").write_text("x")
    (two / "cat" / ".hidden.png").write_text("x")
    (two / "cat" / "notes.txt").write_text("x")
    (two / "loose.png").write_text("x")
    data = load("images", dir=str(two))
    assert sum(len(s["label"]) for s in (data.train, data.validation, data.test)) == 41
    assert data.notes[0] == f"Left out, no picture by its name or in no class: {two / 'loose.png'} and 1 more."


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (28, 28)),
        ({"size": 5}, (5, 5)),
        ({"size": 5, "color_mode": "rgb"}, (5, 5, 3)),
        ({"color_mode": "grayscale"}, (28, 28)),
    ],
)
def test_pictures_of_several_sizes_are_resized(two, options, shape):
    save(two, "dog", grey(1, shape=(100, 70)))
    data = load("images", dir=str(two), **options)
    assert data.image_shape == shape
    assert data.notes[0] == f"The pictures, of 2 sizes, are resized to {shape[0]} × {shape[1]} (--data.size)."


def test_large_pictures_of_one_size_are_resized(tmp_path):
    for c in "ab":
        save(tmp_path, c, grey(3, shape=(65, 65)))
    data = load("images", dir=str(tmp_path))
    assert data.image_shape == (28, 28)
    assert data.notes[0] == "The pictures, of 65 × 65 pixels, are resized to 28 × 28 (--data.size)."


def test_one_picture_in_colour_makes_all_in_colour(two):
    colour = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    save(two, "zebra", [colour] * 3)
    assert load("images", dir=str(two)).image_shape == (20, 24, 3)
    flat = load("images", dir=str(two), color_mode="grayscale")
    assert flat.image_shape == (20, 24)
    np.testing.assert_array_equal(flat.test["image"][flat.test["label"] == 2][0], Image.fromarray(colour).convert("L"))


def test_modes_of_a_picture():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)

    def read(picture, form="PNG", shape=(16, 16), **options):
        return pictures.decode(content(picture, form, **options), "x", shape)

    np.testing.assert_array_equal(read(Image.fromarray(ramp)), ramp)
    np.testing.assert_array_equal(read(Image.fromarray(ramp).convert("RGB")), ramp)
    np.testing.assert_array_equal(read(Image.fromarray(ramp).convert("P")), ramp)
    np.testing.assert_array_equal(read(Image.fromarray(ramp.astype(np.uint16) * 257)), ramp)  # 16 bits
    np.testing.assert_array_equal(read(Image.fromarray(ramp > 99)), np.where(ramp > 99, 255, 0))  # 1 bit
    clear = np.stack([np.zeros_like(ramp), ramp], -1)  # black ink, of which `ramp` is opaque
    np.testing.assert_array_equal(read(Image.fromarray(clear)), 255 - ramp)
    assert read(Image.fromarray(ramp), shape=(16, 16, 3)).shape == (16, 16, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the left
    turned = content(Image.fromarray(ramp[:8]), "JPEG", exif=exif, quality=100)
    assert pictures.shape_of(turned, "x") == (16, 8)
    upright = pictures.decode(turned, "x", (16, 8)).astype(int)
    assert np.abs(upright - np.rot90(ramp[:8], -1)).max() < 10


def test_what_pillow_warns_of_is_not_shown():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "a text of some length"
    cut = content(Image.fromarray(grey(1)[0]), exif=exif.tobytes()[:-30])
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(io.BytesIO(cut)).getexif()
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = set(pool.map(lambda _: pictures.decode(cut, "x", (20, 24)).shape, range(40)))
    assert shapes == {(20, 24)}
    assert pictures.shape_of(cut, "x") == (20, 24)
    assert warnings.filters == filters


def test_shrinking_takes_the_mean():
    checks = np.indices((40, 40)).sum(0) % 2 * 255
    small = pictures.decode(content(Image.fromarray(checks.astype(np.uint8))), "x", (10, 10))
    assert np.abs(small.astype(int) - 127).max() <= 2


def test_what_is_no_folder_of_pictures(tmp_path, two):
    with pytest.raises(UserError, match=r"^--data\.name=images needs the folder of the pictures: name it with --data"):
        load("images")
    refused(r"is not there: name a folder with a folder for each class\.$", tmp_path / "none")
    refused(r"0\.png is a file: name a folder with .+ \(unpack an archive\)", two / "cat" / "0.png")
    refused(r"cat has no folder for each class: put the pictures into folders named by their class", two / "cat")
    (two / "empty").mkdir()
    refused(r"empty holds no picture: put those of the class there, or remove the folder", two)


def test_one_class_is_not_enough(tmp_path):
    save(tmp_path, "cat", grey(9))
    refused(r"has 1 classes \('cat'\): a network tells at least 2 from each other", tmp_path)


def test_too_few_pictures_to_split(two):
    save(two, "rare", grey(2))
    refused(
        r"^The class 'rare' of .+ has 2 training examples, too few to train and to hold out for test and validation:"
        r" give it 3 at least, or take it out\.$",
        two,
    )
    assert load("images", dir=str(two), validation=0).num_classes == 3


def test_splits_that_go_ill_together(tmp_path):
    save(tmp_path / "val", "a", grey(2))
    refused(r"has val/, but no train/: add it", tmp_path)
    save(tmp_path / "train", "b", grey(2))
    refused(
        r"^The validation split of .+ has the class 'a', which the train split has not: add some to train", tmp_path
    )
    save(tmp_path / "valid", "b", grey(2))
    refused(r"has both val/ and valid/, one split: join the two", tmp_path)


def test_splits_without_classes(tmp_path):
    for split in ("train", "test"):
        save(tmp_path, split, grey(2))
    refused(r"train holds no folder for each class: put the pictures of a class into one", tmp_path)


def bomb(side):
    """A PNG whose header promises many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", r"bad\.png is empty: give a picture, or leave it out\.$"),
        (b"no picture", r"bad\.png cannot be read as a picture \(it is none of PNG, .+\): leave it out"),
        (content(Image.fromarray(grey(1)[0]))[:60], r"bad\.png cannot be read as a picture \(.+\): leave it out"),
        (bomb(9000), r"bad\.png has 9,000 × 9,000 pixels, more than 67,108,864: make it smaller"),
        (bomb(60000), r"bad\.png has more than 67,108,864 pixels: make it smaller"),
        (content(Image.fromarray(np.zeros((20, 24), np.float32)), "TIFF"), r"bad\.png holds floating-point numbers"),
    ],
    ids=["empty", "text", "cut short", "large", "bomb", "floats"],
)
def test_pictures_that_cannot_be_read(two, damaged, said):
    (two / "dog" / "bad.png").write_bytes(damaged)
    refused(said, two)


def test_more_than_the_memory_is_refused(two, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 200, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert load("images", dir=str(two)).image_shape == (20, 24)
    refused(r"^40 pictures of 200 × 200 take 0\.0 GB, more than half of the memory, 0\.0 GB: make them", two, size=200)


def test_a_pipe_among_the_pictures(two):
    os.mkfifo(two / "dog" / "pipe.png")
    refused(r"pipe\.png is no file: leave it out", two)


def test_of_many_faults_a_few_are_told(two):
    for i in range(8):
        (two / "dog" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(UserError) as told:
        load("images", dir=str(two))
    assert len(told.value.sentences) == 6
    assert told.value.sentences[-1] == "3 more cannot be read either."


@pytest.mark.parametrize("most", [230, 4000])
def test_a_picture_whose_white_is_far_below_that_of_its_16_bits_is_refused(tmp_path, most):
    file = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, most, 784).reshape(28, 28).astype(np.uint16)).save(file)
    with pytest.raises(
        UserError, match=f"holds numbers up to {most:,} in 16 bits, where white is 65,535, and would be"
    ):
        pictures.decode(file.read_bytes(), str(file), (28, 28))
