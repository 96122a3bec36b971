"""What a user of the installed package types, one verb after another, with nothing but an empty home."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import moejax
from moejax.__main__ import main


def typed(*words: str, status: int = 0) -> None:
    print("$ moejax", *words, flush=True)
    assert main(words) == status, words


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar whose row tells the label."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    image = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
    for i, y in enumerate(label):
        image[i, 4 + 8 * y : 8 + 8 * y] = 250
    return image, label


assert Path(moejax.__file__).is_relative_to(sys.argv[1]), moejax.__file__
(x, y), (x_test, y_test) = bars(400, 0), bars(60, 1)
np.savez("bars.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
Image.fromarray(x_test[0]).save("bar.png")
DATA = ("--data.name", "arrays", "--data.dir", "bars.npz", "--data.validation", "50")
SMALL = ("--config", "mnist_tiny", *DATA, "--train.epochs", "2", "--train.batch_size", "25")

typed("--version")
typed("presets")
typed("data", "path")
typed("run", *SMALL, "--out", "soft")
typed("run", *SMALL, "--moe.layer", "sparse", "--out", "sparse")
typed("run", "--resume", "sparse", "--train.epochs", "3")
typed("report", "soft")
typed("predict", "sparse", "bar.png", "--json")
typed("predict", "soft", "bar.png", "--figure", "bar_seen.png")
typed("predict", "soft", "nothing.png", status=2)
typed("verify", "sparse")
typed("export", "sparse", "--format", "safetensors", "--out", "sparse.safetensors")
typed("export", "soft", "--format", "stablehlo", "--out", "soft.stablehlo")
typed("compare", "soft", "sparse", "--json")
typed("sweep", *SMALL, "--moe.num_experts", "2,4", "--print")
assert json.loads(Path("sparse/summary.json").read_text(encoding="utf-8"))["test_accuracy"] > 0.5
