"""A data set and a network small enough to train in a blink, and a signal that stops it where a test wants."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from moejax import metrics_log
from moejax.config import Config, make_config
from moejax.data.dataset import Dataset
from moejax.interrupt import StopSignal
from moejax.models import build_model
from moejax.models.bert import weights as bert_weights
from moejax.runs import about
from moejax.runs.checkpoint import IDENTITY
from moejax.training.checkpoint import Checkpoints
from moejax.training.folder import RunFolder
from moejax.training.identity import identity
from moejax.training.loop import TrainState, make_init, parameter_key
from moejax.training.optimizer import make_optimizer


def digits(n: int, seed: int) -> dict[str, np.ndarray]:
    """Noise with a bright bar whose row tells the label: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n).astype(np.int32)
    image = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
    for i, y in enumerate(label):
        image[i, 4 + 6 * y : 7 + 6 * y] = 250
    return {"image": image, "label": label}


def made_up_weights(config) -> dict[str, np.ndarray]:
    """Random weights of a pre-trained encoder, as PyTorch saves them."""
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(size=shape, scale=config.model.width**-0.5).astype(np.float32)
        + (name.endswith("LayerNorm.weight"))
        for name, shape in bert_weights.shapes(config).items()
    }


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset(
        name="bars",
        source="dir",
        origin="made on the spot",
        sha256={},
        train=digits(90, 0),
        validation=digits(30, 1),
        test=digits(40, 2),
        num_classes=4,
        notes=(),
    )


@pytest.fixture(scope="session")
def config() -> Config:
    return make_config(
        name="bars",
        data=dict(validation=30),
        model=dict(stem=2, kernel=3, width=8, depth=1),
        moe=dict(layer="sparse", num_experts=2, hidden=8, k=1),
        train=dict(epochs=2, batch_size=15, learning_rate=1e-2, chunk=3, shift=1.0),
    )


def saved_run(path: Path, config: Config, dataset: Dataset, accuracies: dict[int, float | None]) -> list[TrainState]:
    """A run's folder with checkpoints of random states at these steps, and these states: nothing is trained."""
    folder, states = RunFolder.create(path, config), []
    checkpoints = Checkpoints(folder.checkpoints, keep_all=True)
    build = partial(build_model, config, dataset.to_answer, image_shape=dataset.image_shape)
    begin = jax.jit(make_init(build, make_optimizer(config.train, 10)))
    for step, accuracy in accuracies.items():
        state = begin(parameter_key(step))._replace(step=jax.numpy.int32(step))
        rng = np.random.default_rng(step)
        states.append(jax.tree.map(lambda a, rng=rng: jax.numpy.asarray(np.asarray(a) + _noise(rng, a)), state))
        files = about.files(dataset) | {metrics_log.NAME: (path / metrics_log.NAME).read_bytes()}
        files[IDENTITY] = json.dumps(identity(config, dataset)).encode()
        checkpoints.save(states[-1], accuracy, files)
    return states


def _noise(rng: np.random.Generator, a: jax.Array) -> np.ndarray:
    """So that what begins as zeros, such as a balancing bias, has an effect."""
    floating = np.issubdtype(a.dtype, np.floating)
    return rng.normal(scale=0.1, size=a.shape).astype(a.dtype) if floating else np.zeros(a.shape, a.dtype)


class StopAfter(StopSignal):
    """A stop signal that comes after so many looks at it."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0
