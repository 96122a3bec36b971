"""Every network of the presets, on all kinds of data: a mesh of devices gives the numbers of one device.

Each is a preset made small; its routers, experts, losses, noise and optimiser are the preset's. One is quick; the
others, and all presets at their full size:  pytest -n 0 -m slow tests/training/test_mesh_models.py
"""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import digits, made_up_weights
from test_parallel import devices

from moejax import models
from moejax.config import Config, configured
from moejax.data.dataset import Dataset
from moejax.data.mrpc_pieces import LENGTH
from moejax.interrupt import StopSignal
from moejax.models.bert import weights as bert_weights
from moejax.presets import PRESETS
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress

EXAMPLES, BATCH = 48, 16
WORDS = 30


def clusters(rng, config):
    return {"patches": 10 * rng.normal(size=(EXAMPLES, 4, 50)).astype(np.float32)}


def sentences(rng, config):
    words = rng.integers(1, config.data.vocabulary, (2, EXAMPLES, config.data.length)).astype(np.int32)
    words[:, :, 4:] *= rng.integers(0, 2, (2, EXAMPLES, 1))  # some are shorter
    return {"first": words[0], "second": words[1]}


def pieces(rng, config):
    ids, second = np.zeros((EXAMPLES, LENGTH), np.int32), np.zeros((EXAMPLES, LENGTH), bool)
    ids[:, :9], second[:, 5:9] = rng.integers(3, config.data.vocabulary, (EXAMPLES, 9)), True
    return {"pieces": ids, "second": second}


def texts(rng, config):
    text = rng.integers(0, 256, (EXAMPLES, config.data.length + 1), np.uint8)
    return {"tokens": text[:, :-1], "label": text[:, 1:]}


def images(rng, config):
    return {"image": digits(EXAMPLES, 0)["image"]}


# preset → (its examples, what makes it small, how many devices may share its experts)
ENCODER = {"model.width": 8, "model.depth": 2, "model.heads": 2, "model.room": 12, "moe.hidden": 12}
PAIR = {"model.width": 8, "model.embedding": 4, "data.vocabulary": WORDS, "data.length": 6, "moe.hidden": 8}
TEXT = {"data.length": 8, "model.width": 8, "model.depth": 1, "model.heads": 2, "moe.hidden": 8}
FLAT = {"moe.hidden": 8, "model.second_hidden": 8}
# Adam divides next to nothing by next to nothing at pixels that are all but blank, and at the bias of attention's keys,
# which moves no attention: a low rate keeps what follows close.
LOW, LOWEST = {"train.learning_rate": 1e-4}, {"train.learning_rate": 1e-5}
SMALL = {
    "clusters_authors_nonlinear": (clusters, {"train.stop_rise": None, "train.stop_below": None}, 4),
    "mnist_guided": (images, FLAT | LOW | {"train.activations": False}, 2),
    "mnist_flat_sparse": (images, FLAT | LOW, 2),
    "mnist_lstm": (images, {"model.width": 8, "moe.hidden": 8, "train.dtype": "float32"}, 2),
    "mrpc_cnn": (sentences, PAIR, 4),
    "mrpc_rnn": (sentences, PAIR, 2),
    "text_sparse": (texts, TEXT | LOW, 4),
    "mrpc_minilm": (pieces, {**ENCODER, **LOWEST, "data.vocabulary": WORDS, "train.dtype": "float32"}, 4),
}


def data_of(make, config: Config) -> Dataset:
    rng = np.random.default_rng(0)
    tasks = dict.fromkeys(config.data.tasks.split(","), 2) if hasattr(config.data, "tasks") else {}
    shape = (EXAMPLES, len(tasks)) if tasks else EXAMPLES
    parts = [{"label": rng.integers(0, 2, shape).astype(np.int32), **make(rng, config)} for _ in range(3)]
    of_all = {"num_classes": 2 if tasks else {images: 10, texts: 256}.get(make, 2), "tasks": tasks}
    lengths = np.ones(256, np.int32) if make is texts else None
    return Dataset(config.name, "dir", "made on the spot", {}, *parts, **of_all, token_bytes=lengths)


def changed(preset: str, changes: dict[str, object]) -> Config:
    few = {"train.epochs": 2, "train.batch_size": BATCH, "train.chunk": 3, "train.evaluation_batch": BATCH}
    config, problems = configured(few | changes, PRESETS[preset].config)
    assert not problems
    return config


def check_mesh(config: Config, data: Dataset, expert: int, folder: Path, strays: float = 0.0) -> None:
    """Train on one device, and on eight of which `expert` share the experts.

    `strays`: the share of a parameter's numbers that may differ, where Adam has divided next to nothing by itself.
    """
    fits = []
    for name, way in (("one", {}), ("mesh", dict(data=8 // expert, expert=expert))):
        with devices(1 if name == "one" else 8):
            run = RunFolder.create(folder / name, config)
            fits.append(Fit(config.replace(parallel=way), data, run, Progress()))
        assert fits[-1].train(StopSignal())
    one, mesh = fits
    for (path, a), b in zip(jax.tree.leaves_with_path(one.state.model), jax.tree.leaves(mesh.state.model), strict=True):
        differs = ~np.isclose(b, a, rtol=1e-4, atol=1e-5)
        assert differs.mean() <= strays, f"{jax.tree_util.keystr(path)}: {differs.sum()} of {differs.size} differ"
    for a, b in zip(one.folder.read_log(), mesh.folder.read_log(), strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-4)
        np.testing.assert_allclose(b["load"], a["load"], atol=1e-5)


@pytest.fixture(autouse=True)
def weights_made_up(monkeypatch):
    monkeypatch.setitem(models.PRETRAINED, "encoder", (made_up_weights, bert_weights.fill))


@pytest.mark.slow
@pytest.mark.parametrize("preset", SMALL)
def test_a_mesh_gives_the_numbers_of_one_device(preset, tmp_path):
    make, changes, expert = SMALL[preset]
    config = changed(preset, changes)
    check_mesh(config, data_of(make, config), expert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_mesh_gives_the_numbers_of_one_device_at_full_size(preset, tmp_path):
    dataset = PRESETS[preset].config.data.name
    make = {"clusters": clusters, "mrpc": sentences, "mrpc_pieces": pieces, "python": texts}.get(dataset, images)
    steady = {**LOW, "train.dtype": "float32", "train.activations": False}
    if dataset == "clusters":
        steady |= {"train.stop_rise": None, "train.stop_below": None}
    config = changed(preset, steady)
    check_mesh(config, data_of(make, config), math.gcd(config.moe.num_experts, 8), tmp_path, strays=1e-3)
