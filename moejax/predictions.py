"""A run's predictions.npz: its answer to each test example; written by the run, read where runs are compared."""

import io
from typing import NamedTuple

import numpy as np

from moejax.files import packed

NAME = "predictions.npz"


class Predictions(NamedTuple):
    """The answers of one run, in the order of the test examples."""

    label: np.ndarray  # whole numbers [n], of several tasks [n, tasks]
    prediction: np.ndarray  # the same
    test_sha256: str  # of all test examples: two runs with the same one saw the same examples

    @property
    def right(self) -> np.ndarray:
        """bool [n] or [n, tasks]: which answers were right."""
        return self.label == self.prediction


def pack(predictions: Predictions) -> bytes:
    """The content of the file: for 10,000 images about 10 kB."""
    label, prediction = (_narrow(a) for a in predictions[:2])
    return packed({"label": label, "prediction": prediction, "test_sha256": np.array(predictions.test_sha256)})


def unpack(content: bytes) -> Predictions | None:
    """The predictions that such a file holds; None if they cannot be read."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            label, prediction, sha256 = (arrays[name] for name in Predictions._fields)
    except Exception:  # a damaged archive raises what its damage leads to: of zip, zlib, NumPy's headers, memory
        return None
    whole = all(a.dtype.kind in "iu" and a.ndim in (1, 2) and a.size for a in (label, prediction))
    if not whole or label.shape != prediction.shape or sha256.shape or sha256.dtype.kind != "U":
        return None
    return Predictions(label, prediction, str(sha256))


def _narrow(labels: np.ndarray) -> np.ndarray:
    """As small a type as holds them."""
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
