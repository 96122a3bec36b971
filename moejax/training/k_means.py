"""k-means: Lloyd's steps from the centres of k-means++ (Arthur & Vassilvitskii 2007).

Written out, for scikit-learn's takes longer to import than a small run takes to evaluate. The same data give the same
centres on every machine, but for rounding.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def k_means(x: Float[ndarray, "n d"], k: int, *, seed: int = 0, steps: int = 30) -> Float[ndarray, "k2 d"]:
    """The centres of k clusters, or of as many as there are different rows."""
    rng = np.random.default_rng(seed)
    centres = [x[rng.integers(len(x))]]
    distance = _squared(x, centres[0])
    while len(centres) < k and (total := distance.sum(dtype=np.float64)) > 0:
        centres.append(x[rng.choice(len(x), p=distance / total)])
        distance = np.minimum(distance, _squared(x, centres[-1]))
    found, before = np.array(centres), None
    for _ in range(steps):
        cluster = nearest(x, found)
        if before is not None and (cluster == before).all():
            break
        found = np.array([x[cluster == i].mean(0) if (cluster == i).any() else c for i, c in enumerate(found)])
        before = cluster
    return found


def nearest(x: Float[ndarray, "n d"], centres: Float[ndarray, "k d"]) -> Int[ndarray, " n"]:
    """The nearest centre of each row; of two the first."""
    return ((centres**2).sum(1) - 2 * (x @ centres.T)).argmin(1)


def _squared(x: Float[ndarray, "n d"], centre: Float[ndarray, " d"]) -> Float[ndarray, " n"]:
    return ((x - centre) ** 2).sum(1, dtype=np.float64)
