"""Synthetic clusters (Chen et al. 2022, "Towards Understanding Mixture of Experts in Deep Learning", section 3 and 6).

An example is four patches of 50 numbers, in random order, and a label y = ±1, given as 1 and 0:

    y · α · v_k      the feature of its cluster k: its sign is the label
    β · c_k          the centre of its cluster
    ε · γ · v_k'     the feature of another cluster, with a random sign: noise that looks like a feature
    ξ                normal noise of variance σ² / 50 in each number

v_1 … v_4 and c_1 … c_4 are orthonormal; α, β and γ are uniform; everything is multiplied by 10, as the authors' data
are. Nothing is read from files: all follows from the seed.
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy import ndarray

from moejax.data.dataset import Dataset, Examples, Validation

CLUSTERS, PATCHES, WIDTH = 4, 4, 50
TRAIN, TEST = 16_000, 16_000
_SCALE = 10.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """Ranges of the uniform α (feature), β (centre) and γ (feature noise), and σ of the normal noise."""

    feature: tuple[float, float]
    center: tuple[float, float]
    feature_noise: tuple[float, float]
    sigma: float


SETTINGS = {
    "s1": Setting((0.5, 2.0), (1.0, 2.0), (0.5, 3.0), 1.0),
    "s2": Setting((0.5, 2.0), (1.0, 2.0), (0.5, 3.0), 2.0),
    "s3": Setting((0.5, 2.0), (1.0, 2.0), (0.5, 2.0), 1.0),
    "s4": Setting((0.5, 2.0), (1.0, 2.0), (0.5, 2.0), 2.0),
    "theorem": Setting((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), 1.0),  # of theorem 4.1: feature and feature noise alike
}


def load(setting: Literal[*SETTINGS] = "s1", validation: Validation = 5000, seed: int = 0) -> Dataset:
    """A setting's data set: 16,000 examples to train and 16,000 to test, drawn as one stream as the authors do.

    Args:
      setting: strength of the feature noise and of the normal noise, as in Chen et al. 2022.

    `validation` further ones come from a stream of their own, so that training does not depend on their number.
    """
    basis = directions(seed)
    stream = draw(SETTINGS[setting], basis, np.random.default_rng([seed, 1]), TRAIN + TEST)
    return Dataset(
        name=f"clusters, setting {setting}",
        source="seed",
        origin=f"drawn by seed {seed}",
        sha256={},
        train={name: array[:TRAIN] for name, array in stream.items()},
        validation=draw(SETTINGS[setting], basis, np.random.default_rng([seed, 2]), validation),
        test={name: array[TRAIN:] for name, array in stream.items()},
        num_classes=2,
    )


def directions(seed: int) -> ndarray:
    """The features v_1 … v_4, then the centres c_1 … c_4 of a seed: eight orthonormal rows [8, 50]."""
    gaussian = np.random.default_rng([seed, 0]).normal(size=(WIDTH, 2 * CLUSTERS))
    return np.linalg.qr(gaussian)[0].T


def draw(setting: Setting, basis: ndarray, rng: np.random.Generator, n: int) -> Examples:
    """`n` examples: patches float32 [n, 4, 50], label and cluster int32 [n]."""
    features, centers = basis[:CLUSTERS], basis[CLUSTERS:]
    label, cluster = rng.integers(0, 2, n), rng.integers(0, CLUSTERS, n)
    other = (cluster + rng.integers(1, CLUSTERS, n)) % CLUSTERS
    sign = rng.choice([-1.0, 1.0], n)
    alpha, beta, gamma = (rng.uniform(*r, n) for r in (setting.feature, setting.center, setting.feature_noise))
    patches = np.stack(
        [
            ((2 * label - 1) * alpha)[:, None] * features[cluster],
            beta[:, None] * centers[cluster],
            (sign * gamma)[:, None] * features[other],
            rng.normal(scale=setting.sigma / np.sqrt(WIDTH), size=(n, WIDTH)),
        ],
        axis=1,
    )
    order = rng.permuted(np.tile(np.arange(PATCHES), (n, 1)), axis=1)
    return {
        "patches": (_SCALE * np.take_along_axis(patches, order[..., None], axis=1)).astype(np.float32),
        "label": label.astype(np.int32),
        "cluster": cluster.astype(np.int32),
    }
