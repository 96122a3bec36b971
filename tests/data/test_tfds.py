"""The source `tfds` on a data set that the library itself prepared in a test's folder, without TensorFlow."""

import importlib.util
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from moejax.data import mnist, tfds, web
from moejax.errors import UserError

pytestmark = pytest.mark.filterwarnings("default")  # a large library warns as it likes
tensorflow_datasets = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tiny, tmp_path_factory):
    """A data_dir that holds the tiny set as `mnist` 3.0.1."""
    folder = tmp_path_factory.mktemp("tfds")
    core = tensorflow_datasets.core

    class MNIST(core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = core.Version("3.0.1")

        def _info(self):
            features = {
                "image": tensorflow_datasets.features.Image(shape=(28, 28, 1)),
                "label": tensorflow_datasets.features.ClassLabel(num_classes=10),
            }
            return core.DatasetInfo(builder=self, features=tensorflow_datasets.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(*names) for split, names in mnist.SPLITS.items()}

        def _generate_examples(self, images, labels):
            for row, (image, label) in enumerate(zip(tiny.arrays[images], tiny.arrays[labels], strict=True)):
                path = folder / f"{images}-{row}.png"  # an array would be encoded by TensorFlow
                PIL.Image.fromarray(image).save(path)
                yield row, {"image": str(path), "label": int(label)}

    MNIST(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder)


def by_bytes(images, labels) -> dict[bytes, int]:
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def test_a_prepared_folder(tiny, prepared):
    splits, origin = tfds.read("mnist", prepared)
    dataset = mnist.from_splits(tiny.images, splits, origin)
    for split, (images, labels) in mnist.SPLITS.items():
        examples = getattr(dataset, split)
        assert (examples["image"].dtype, examples["label"].dtype) == (np.uint8, np.int32)
        # The library shuffles when it prepares: the same pairs, in another order.
        assert by_bytes(examples["image"], examples["label"]) == by_bytes(tiny.arrays[images], tiny.arrays[labels])
    assert origin.startswith(f"TensorFlow Datasets mnist/3.0.1 in {prepared}")


def test_preparing_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"finds no mnist prepared in .*needs TensorFlow: pip install tensorflow\."):
        tfds.read("mnist", str(tmp_path))


def test_preparing_without_a_network_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    with pytest.raises(
        UserError, match=r"cannot fetch it \(cannot connect to 127\.0\.0\.1 .*\): name a prepared folder"
    ):
        tfds.read("mnist", str(tmp_path), host="http://127.0.0.1:1")


def test_what_the_library_raises_is_one_sentence(tmp_path, monkeypatch):
    def fail(self, **_):
        raise RuntimeError("the disk is full\nTraceback follows")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(web, "probe", lambda _: None)
    monkeypatch.setattr(tensorflow_datasets.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(
        UserError, match=r"^--data\.source=tfds cannot read mnist from .* \(the disk is full\): "
    ) as error:
        tfds.read("mnist", str(tmp_path))
    assert "\n" not in str(error.value)


def test_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"package tensorflow_datasets: pip install tensorflow_datasets\."):
        tfds.read("mnist", None)


def test_nothing_is_said_but_the_sentence(tmp_path):
    code = (
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "from moejax.data import tfds\nfrom moejax.errors import UserError\n"
        f"try: tfds.read('mnist', {str(tmp_path)!r})\nexcept UserError as error: print(error)"
    )
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)  # begun and left, which the library warns of
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.endswith("needs TensorFlow: pip install tensorflow.\n")
