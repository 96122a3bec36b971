"""MNIST's own part: which source comes when, what a damaged file says, and the real images."""

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moejax import data
from moejax.data import idx, mnist, mnist_embedded, mnist_wheel
from moejax.data.find import UnavailableError
from moejax.errors import UserError

IMAGES, LABELS = mnist.SPLITS["train"]


def load(images, source="auto", directory=None, validation=5, seed=0):
    return mnist.load(images, source, directory, validation, seed)


def bodies(tiny) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}


def test_the_splits_have_the_promised_shapes_and_types(tiny, tmp_path):
    tiny.write(tmp_path / "tiny")
    dataset = load(tiny.images, directory=str(tmp_path))
    for split, count in {"train": 35, "validation": 5, "test": 10}.items():
        examples = getattr(dataset, split)
        assert (examples["image"].shape, examples["image"].dtype) == ((count, 28, 28), np.uint8)
        assert (examples["label"].shape, examples["label"].dtype) == ((count,), np.int32)
    assert (dataset.name, dataset.source, dataset.origin) == ("tiny", "dir", str(tmp_path / "tiny"))
    assert dataset.sha256 == tiny.images.sha256
    assert (dataset.num_classes, dataset.notes) == (10, ())
    np.testing.assert_array_equal(dataset.test["image"], tiny.arrays["t10k-images-idx3-ubyte"])


@pytest.mark.parametrize("packed", [True, False])
def test_files_named_with_a_dot_are_the_same_files(tiny, tmp_path, packed):
    for path in tiny.write(tmp_path, packed=packed).iterdir():
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
        (tmp_path / path.name).mkdir()  # one archive has folders of the files' other names beside them
    dataset = load(tiny.images, directory=str(tmp_path))
    np.testing.assert_array_equal(dataset.test["image"], tiny.arrays["t10k-images-idx3-ubyte"])


def test_auto_takes_the_folder_then_the_cache_then_a_mirror(tiny, tmp_path, serve, cache):
    images = tiny.mirrored(serve(bodies(tiny)))
    assert load(images).source == "mirror"
    assert load(images).source == "cache"
    tiny.write(tmp_path / "tiny")
    assert load(images, directory=str(tmp_path)).source == "dir"
    assert load(images, "mirror").source == "mirror"


def test_auto_never_passes_over_a_folder_that_is_named(tiny, tmp_path, cache, monkeypatch):
    tiny.write(cache / "tiny")
    with pytest.raises(UserError, match=r"--data\.dir=.* has no folder tiny/"):
        load(tiny.images, directory=str(tmp_path))
    monkeypatch.setenv("MOEJAX_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"MOEJAX_DATA_DIR=.* has no folder tiny/"):
        load(tiny.images)
    assert load(tiny.images, "cache").source == "cache"  # this was named even more explicitly


def test_a_damaged_cache_is_fetched_again_and_says_so(tiny, serve, cache):
    (tiny.write(cache / "tiny") / f"{LABELS}.gz").write_bytes(b"?")
    dataset = load(tiny.mirrored(serve(bodies(tiny))))
    assert dataset.source == "mirror"
    assert len(dataset.notes) == 1
    assert "damaged file in the cache was removed" in dataset.notes[0]
    assert (load(tiny.images).source, load(tiny.images).notes) == ("cache", ())


def test_a_named_source_does_not_fall_back(tiny, cache):
    with pytest.raises(UnavailableError, match=r"The cache .* has no train-images-idx3-ubyte"):
        load(tiny.images, "cache")
    tiny.write(cache / "tiny")
    with pytest.raises(UnavailableError, match="No mirror served the files"):
        load(tiny.images, "mirror")


def test_the_last_resorts_of_mnist_in_their_order(monkeypatch):
    asked = []

    def nothing(key):
        def source(*_):
            asked.append(key)
            raise UnavailableError(f"{key} is away", "wait")

        return source

    monkeypatch.setattr(mnist.find, "mirrored", nothing("mirror"))
    monkeypatch.setattr(mnist_wheel, "rebuilt", nothing("wheel"))
    monkeypatch.setattr(mnist_embedded, "read", nothing("embedded"))
    with pytest.raises(UserError, match="No source could serve the data set 'mnist'") as error:
        data.load("mnist")
    assert asked == ["mirror", "wheel", "embedded"]
    assert [sentence.split(":")[0] for sentence in error.value.sentences[1:-1]] == [
        "  cache",
        "  mirror",
        "  wheel",
        "  embedded",
    ]
    asked.clear()
    with pytest.raises(UserError, match="'fashion_mnist'"):
        data.load("fashion_mnist")
    assert asked == ["mirror"]


def with_damaged(tiny, folder: Path, name: str, raw: bytes) -> str:
    """Writes the set with other bytes in one file, and gives the error's sentence after that file's path."""
    path = tiny.write(folder / "tiny", without=name) / f"{name}.gz"
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        load(tiny.images, directory=str(folder))
    (sentence,) = error.value.sentences
    assert sentence.startswith(f"{path} ")
    assert re.fullmatch(r".+: .+\.", sentence)  # problem: fix.
    return sentence.removeprefix(f"{path} ")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda packed: b"", "is empty"),
        (lambda packed: packed[:-100], "is a truncated gzip file"),
        (lambda packed: packed[:-8] + bytes(4) + packed[-4:], "is a corrupted gzip file"),
        (lambda packed: packed + b"?", "has 1 bytes after the end of its gzip data"),
        (lambda packed: b"?" + packed, "is not an IDX file of bytes"),
    ],
    ids=["empty", "truncated", "corrupted", "longer", "shifted"],
)
def test_a_damaged_gzip_file_is_one_sentence(tiny, tmp_path, damage, problem):
    assert with_damaged(tiny, tmp_path, IMAGES, damage(gzip.compress(tiny.contents[IMAGES]))).startswith(problem)


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        (IMAGES, lambda content: content[:-1], "is truncated (31375 bytes, expected 31376)"),
        (IMAGES, lambda content: content + b"?", "has bytes after its end|unpacks to more than"),
        (IMAGES, lambda content: b"\x01" + content[1:], "is not an IDX file of bytes (magic number 16779267"),
        (IMAGES, lambda _: idx.encode(np.zeros(40, np.uint8)), "holds an array of rank 1, expected rank 3"),
        (IMAGES, lambda _: idx.encode(np.zeros((40, 27, 28), np.uint8)), "holds an array of shape 40 x 27 x 28"),
        (LABELS, lambda _: idx.encode(np.zeros(39, np.uint8)), "holds an array of shape 39, expected 40"),
        (LABELS, lambda content: content[:11] + b"\x0b" + content[12:], "has the label 11 at row 3, expected 0 to 9"),
        (LABELS, lambda content: content[:8] + content[:7:-1], "can be read but is corrupted or not the published"),
    ],
    ids=["truncated", "longer", "magic", "rank", "size", "count", "label", "checksum"],
)
def test_damaged_content_is_one_sentence(tiny, tmp_path, name, damage, problem, pack):
    sentence = with_damaged(tiny, tmp_path, name, pack(damage(tiny.contents[name])))
    assert sentence.startswith(tuple(problem.split("|")))


@pytest.mark.parametrize("validation", [-1, 40, 41])
def test_an_impossible_validation_is_said_before_anything_is_fetched(tiny, validation):
    with pytest.raises(UserError, match=rf"--data\.validation={validation} cannot be held out of 40"):
        load(tiny.images, "mirror", validation=validation)


@pytest.mark.parametrize("name", ["mnist", "mrpc_pieces", "clusters"])
def test_numbers_that_are_none_are_one_sentence(name):
    plain = data.load
    while hasattr(plain, "__wrapped__"):  # without the tests' own type checks
        plain = plain.__wrapped__
    for options, sentence in (
        ({"validation": 2.5}, "data.validation is 2.5; it must be a whole number from 0 to 1,000,000."),
        ({"validation": "5"}, "data.validation is '5'; it must be a whole number from 0 to 1,000,000."),
        ({"validation": True}, "data.validation is true; it must be a whole number from 0 to 1,000,000."),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0."),
        ({"seed": None}, "seed is none; it must be a whole number of at least 0."),
    ):
        with pytest.raises(UserError) as error:
            plain(name, **options)
        assert str(error.value) == sentence


def test_what_a_library_gives_is_checked(tiny):
    image = np.zeros((40, 28, 28), np.uint8)
    train = {"image": image, "label": np.zeros(40, np.int32)}
    test = {"image": image[:10], "label": np.zeros(10, np.int32)}
    assert mnist.from_splits(tiny.images, {"train": train, "test": test}, "here").validation["image"].shape == (
        0,
        28,
        28,
    )
    with pytest.raises(UserError, match=r"here has no split 'test' \(train\): "):
        mnist.from_splits(tiny.images, {"train": train}, "here")
    with pytest.raises(
        UserError, match=r"The test split of here has images \(40, 28, 28\) and labels \(40,\), expected"
    ):
        mnist.from_splits(tiny.images, {"train": train, "test": train}, "here")
    with pytest.raises(UserError, match=r"The test split .* labels \(40,\), expected .*\(10,\)"):
        mnist.from_splits(tiny.images, {"train": train, "test": {**test, "label": train["label"]}}, "here")
    with pytest.raises(UserError, match="The test split of here has the label -1 at row 0"):
        mnist.from_splits(tiny.images, {"train": train, "test": {**test, "label": test["label"] - 1}}, "here")


# moejax.data.load


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"name": "minst"},
            f"--data.name=minst is unknown: choose one of {', '.join(data.DATASETS)}.",
        ),
        (
            {"name": "mnist", "source": "torch"},
            "data.source is torch; it must be one of auto, dir, cache, mirror, wheel, embedded, synthetic, tfds, hf.",
        ),
        (
            {"name": "mnist", "source": "mirror", "dir": "/x"},
            "--data.dir=/x is not used by --data.source=mirror: leave one of the two out.",
        ),
        (
            {"name": "fashion_mnist", "source": "embedded"},
            "--data.source=embedded does not offer fashion_mnist: choose one of auto, dir, cache, mirror, tfds, hf.",
        ),
    ],
)
def test_unknown_names(arguments, sentence):
    with pytest.raises(UserError) as error:
        data.load(**arguments)
    assert str(error.value) == sentence


def test_importing_is_light():
    heavy = "{'sklearn', 'mlxtend', 'tensorflow_datasets', 'tensorflow', 'datasets', 'pandas'}"
    code = f"import sys, moejax.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The real images


def test_real_mnist(real_data):
    dataset = data.load("mnist", dir=real_data, validation=0)
    per_digit = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.train["label"]).tolist() == per_digit
    assert np.bincount(dataset.test["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.train["image"].mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert dataset.train["image"].std() / 255 == pytest.approx(0.3081, abs=1e-4)
    assert dataset.validation["image"].shape == (0, 28, 28)


def test_real_mnist_holds_out_5000(real_data):
    dataset = data.load("mnist", dir=real_data)
    assert [len(split["label"]) for split in (dataset.train, dataset.validation, dataset.test)] == [55000, 5000, 10000]


def test_real_mnist_with_one_pixel_changed(real_data, tmp_path):
    folder = tmp_path / "mnist"
    dataset = data.load("mnist", dir=real_data, validation=0)
    image = dataset.test["image"].copy()
    image[7, 14, 14] ^= 1
    parts = {IMAGES: dataset.train["image"], LABELS: dataset.train["label"]}
    parts |= {mnist.SPLITS["test"][0]: image, mnist.SPLITS["test"][1]: dataset.test["label"]}
    folder.mkdir()
    for name, array in parts.items():
        (folder / name).write_bytes(idx.encode(array))
    with pytest.raises(
        UserError, match="t10k-images-idx3-ubyte can be read but is corrupted or not the published file"
    ):
        data.load("mnist", dir=str(tmp_path))


def test_the_tables_of_checksums_are_complete():
    for images in (mnist.MNIST, mnist.FASHION_MNIST):
        assert set(images.sha256) == {name for names in mnist.SPLITS.values() for name in names}
        assert all(len(bytes.fromhex(digest)) == hashlib.sha256().digest_size for digest in images.sha256.values())
        assert len(mnist.published_files(images)) == 4
