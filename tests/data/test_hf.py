"""The source `hf` on local copies, as the library itself writes them; the hub is never asked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

from moejax.data import hf, mnist, web
from moejax.errors import UserError

pytestmark = pytest.mark.filterwarnings("default")  # two large libraries warn as they like


@pytest.fixture(scope="module")
def saved(tiny) -> datasets.DatasetDict:
    """The tiny set as `ylecun/mnist` is on the hub."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [PIL.Image.fromarray(image) for image in tiny.arrays[images]],
                    "label": tiny.arrays[labels].tolist(),
                },
                features=features,
            )
            for split, (images, labels) in mnist.SPLITS.items()
        }
    )


@pytest.fixture(autouse=True)
def library_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def write_parquet(saved: datasets.DatasetDict, folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, rows in saved.items():
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "data/parquet"])
def test_local_copies(tiny, saved, tmp_path, form):
    folder = tmp_path / "copy"
    if form == "save_to_disk":
        saved.save_to_disk(folder)
    else:
        write_parquet(saved, folder / "data" if "/" in form else folder)
    dataset = mnist.load(tiny.images, "hf", str(folder), 0, 0)
    assert (dataset.source, dataset.origin, dataset.sha256) == ("hf", str(folder), {})
    for split, (images, labels) in mnist.SPLITS.items():
        examples = getattr(dataset, split)
        np.testing.assert_array_equal(examples["image"], tiny.arrays[images])
        np.testing.assert_array_equal(examples["label"], tiny.arrays[labels])
        assert examples["label"].dtype == np.int32


def test_an_incomplete_copy(tiny, saved, tmp_path):
    datasets.DatasetDict({"train": saved["train"]}).save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=r"has no split 'test' \(train\)"):
        mnist.load(tiny.images, "hf", str(tmp_path / "copy"), 0, 0)


def test_other_columns(saved, tmp_path):
    saved.rename_column("label", "digit").save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=r"--data\.source=hf cannot read .*copy \(.*label.*\): check that it holds"):
        hf.read("ylecun/mnist", str(tmp_path / "copy"))


def test_a_folder_that_is_no_copy(tmp_path):
    with pytest.raises(UserError, match=r"--data\.dir=/nowhere is not a folder: name one with a copy of ylecun/mnist"):
        hf.read("ylecun/mnist", "/nowhere")
    with pytest.raises(UserError, match=r"--data\.source=hf cannot read"):
        hf.read("ylecun/mnist", str(tmp_path))


def test_without_a_network_it_says_so_at_once(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the library was asked"))
    with pytest.raises(
        UserError, match=r"cannot fetch ylecun/mnist \(cannot connect to 127\.0\.0\.1 .*\): pass a local"
    ):
        hf.read("ylecun/mnist", None)


def test_the_hub_is_asked_by_name(tiny, saved, monkeypatch):
    asked = []
    monkeypatch.setattr(web, "probe", asked.append)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or saved)
    assert hf.read("ylecun/mnist", None)[1] == "Hugging Face ylecun/mnist"
    assert asked == ["https://huggingface.co", "ylecun/mnist"]


def test_the_library_cannot_be_imported(tmp_path):
    script = (
        "from moejax.data import hf, tokens\n"
        "from moejax.errors import UserError\n"
        "for step in (lambda: hf.read('x', None), lambda: tokens.trained('x', ['a b'], 60)):\n"
        "    try: step()\n"
        "    except UserError as error: print(error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://[::bad", "MOEJAX_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    sentence = r"The package {} cannot be imported \(.+\): mend what that is about\.\n"
    assert re.search(sentence.format("datasets") + sentence.format("transformers"), run.stdout)


def test_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets: pip install datasets"):
        hf.read("ylecun/mnist", None)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image": [[[0.5, 0.25]]], "label": [1]}, "its images are not grey ones of one byte a pixel"),
        ({"image": [[[0, 256]]], "label": [1]}, "its images are not grey ones of one byte a pixel"),
        ({"image": [[[0, 255]]], "label": [1.5]}, "its labels are of type float64, expected whole numbers of 32 bits"),
        ({"image": [[[0, 255]]], "label": ["1"]}, "its labels are of type <U1, expected whole numbers of 32 bits"),
        ({"image": [[[0, 255]]], "label": [None]}, "its labels are of type object, expected whole numbers"),
        ({"image": [[[0, 255]], [[0]]], "label": [1, 1]}, "."),
        ({"image": [PIL.Image.new("1", (2, 1))], "label": [1]}, "its images are not grey ones"),
        ({"image": [PIL.Image.new("P", (2, 1))], "label": [1]}, "its images are not grey ones"),
        ({"image": [PIL.Image.new("RGB", (2, 1))], "label": [1]}, "its images are not grey ones"),
    ],
)
def test_columns_of_another_type_are_refused(tmp_path, columns, problem):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=rf"cannot read .*copy \(.*{problem}.*\): check that it holds ylecun/mnist"):
        hf.read("ylecun/mnist", str(tmp_path / "copy"))
