"""Questions about an image: by hand, by a loop over pixels, and with no threshold from the images of the test."""

import numpy as np
import pytest

from moejax import data
from moejax.data import image_tasks
from moejax.data.image_tasks import TASKS, five_of, ink, slant
from moejax.errors import UserError


def strokes(*columns_of_rows):
    """An image of a pixel a row, in these columns."""
    image = np.zeros((1, len(columns_of_rows), 6), np.uint8)
    image[0, np.arange(len(columns_of_rows)), columns_of_rows] = 200
    return image


@pytest.mark.parametrize(
    ("image", "leans"),
    [
        (strokes(3, 2, 1, 0), 1.0),  # like /
        (strokes(0, 1, 2, 3), -1.0),  # like \
        (strokes(4, 4, 4, 4), 0.0),
        (strokes(4, 2, 0), 2.0),
        (np.zeros((1, 4, 4), np.uint8), 0.0),  # blank
        (np.eye(4, dtype=np.uint8)[None, :1], 0.0),  # a single row, of which nothing can be said
    ],
)
def test_slant_by_hand(image, leans):
    np.testing.assert_allclose(slant(image), [leans], atol=1e-12)
    np.testing.assert_array_equal(ink(image), [image.sum()])


def test_slant_is_the_regression_of_column_on_row_and_the_same_for_images_in_any_company(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8) // 64 * 60
    want = []
    for image in images.astype(np.float64):
        rows, columns = np.mgrid[:28, :28]
        up, right = (np.average(a, weights=image) - a for a in (rows, columns))
        want.append(-(image * up * right).sum() / (image * up**2).sum())
    np.testing.assert_allclose(slant(images), want, rtol=1e-9)
    monkeypatch.setattr(image_tasks, "_CHUNK", 2)
    np.testing.assert_array_equal(slant(images), np.concatenate([slant(image[None]) for image in images]))
    np.testing.assert_array_equal(slant(images[..., ::-1]), -slant(images))
    assert slant(images[:0]).shape == (0,)


def test_halves_agree_on_as_many_digits_as_their_names_say():
    for seed in range(3):
        for shift in range(6):
            assert len({*five_of(seed, 0)} & {*five_of(seed, shift)}) == 5 - shift
    assert len({frozenset(five_of(seed, 0).tolist()) for seed in range(5)}) > 1
    digits = {"label": np.arange(10)}
    of = {name: TASKS[name].answer(digits, digits, 7) for name in TASKS if name.startswith("half")}
    for shift, name in enumerate(of):
        assert (of[name] == of["half"]).sum() == 10 - 2 * shift
        assert of[name].sum() == 5


def load(tiny, folder, **options):
    return image_tasks.load(tiny.images, dir=str(folder), validation=5, **options)


def test_a_label_has_a_number_for_each_task_and_thresholds_are_those_of_the_training_images(tiny, tmp_path):
    tiny.write(tmp_path / "tiny")
    dataset = load(tiny, tmp_path)
    assert dataset.tasks == {"digit": 10, "parity": 2, "size": 2, "slant": 3}
    assert (dataset.name, dataset.num_classes, dataset.to_answer) == ("tiny_tasks", 10, (10, 2, 2, 3))
    plain = data.mnist.load(tiny.images, dir=str(tmp_path), validation=5)
    half = np.median(ink(plain.train["image"]))
    thirds = np.quantile(slant(plain.train["image"]), [1 / 3, 2 / 3])
    for name in ("train", "validation", "test"):
        examples, before = getattr(dataset, name), getattr(plain, name)
        assert examples["label"].dtype == np.int32
        np.testing.assert_array_equal(examples["image"], before["image"])
        digit, parity, size, leans = examples["label"].T
        np.testing.assert_array_equal(digit, before["label"])
        np.testing.assert_array_equal(parity, before["label"] % 2)
        np.testing.assert_array_equal(size, ink(before["image"]) > half)
        np.testing.assert_array_equal(leans, (slant(before["image"])[:, None] > thirds).sum(1))
    assert np.bincount(dataset.train["label"][:, 3]).tolist() == [12, 11, 12]


def test_tasks_are_chosen_by_name_and_come_in_that_order(tiny, tmp_path):
    tiny.write(tmp_path / "tiny")
    dataset = load(tiny, tmp_path, tasks="slant,digit", seed=1)
    assert list(dataset.tasks) == ["slant", "digit"]
    assert dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.test["label"][:, 1], tiny.arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (
            "digit,color",
            r"^data\.tasks is 'digit,color', which names no task 'color'; name some of digit, parity, size,",
        ),
        ("digit,digit", r"^data\.tasks is 'digit,digit', which names a task twice; name some of digit"),
        ("", r"^data\.tasks is '', which names no task ''; name some of digit"),
    ],
)
def test_other_names_are_one_sentence(tasks, sentence):
    with pytest.raises(UserError, match=sentence):
        data.load("mnist_tasks", tasks=tasks)


def test_real_mnist(real_data):
    dataset = data.load("mnist_tasks", dir=real_data)
    shares = [np.bincount(labels) / len(labels) for labels in dataset.train["label"][:, 1:].T]
    for share, want in zip(shares, ([0.49, 0.51], [1 / 2, 1 / 2], [1 / 3, 1 / 3, 1 / 3]), strict=True):
        np.testing.assert_allclose(share, want, atol=0.005)
    assert slant(dataset.train["image"]).mean() == pytest.approx(0.11, abs=0.01)  # people lean to the right
