"""A data set and a network small enough to train in a blink, and a signal that stops it where a test wants."""

import numpy as np
import pytest

from moejax.config import Config, make_config
from moejax.data.dataset import Dataset
from moejax.models.bert import weights as bert_weights
from moejax.training.interrupt import StopSignal


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


class StopAfter(StopSignal):
    """A stop signal that comes after so many looks at it."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0
