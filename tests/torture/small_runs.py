"""Two runs that are trained in a few seconds, by the ordinary command: of images, and of text."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moejax.__main__ import main

MOE = ("--moe.layer", "sparse", "--moe.num_experts", "2", "--moe.hidden", "8", "--moe.k", "1")
IMAGE = (
    *("--config", "mnist_tiny", "--data.name", "arrays", *MOE, "--train.batch_size", "32"),
    *("--model.width", "8", "--model.stem", "2", "--model.depth", "1", "--model.kernel", "3"),
)
TEXT = (
    *("--config", "text_sparse", "--data.name", "text", "--data.length", "16", "--data.vocabulary", "300", *MOE),
    *("--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--train.batch_size", "16"),
)
KEPT = ("--train.epochs", "2", "--train.checkpoints", "all")


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def say(*words: object) -> Said:
    """Run a command line in this process; whatever escapes from it is the caller's."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Said(code, out.getvalue(), err.getvalue())


def image_words(folder: Path) -> tuple[str, ...]:
    """What follows `moejax run` for 200 images with a bar each, whose place tells the label."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 200)
    image = rng.integers(0, 60, (200, 28, 28), dtype=np.uint8)
    for i, y in enumerate(label):
        image[i, 4 + 6 * y : 7 + 6 * y] = 250
    np.savez(folder / "bars.npz", x=image, y=label)
    return (*IMAGE, "--data.dir", str(folder / "bars.npz"), *KEPT)


def image_run(folder: Path, *more: str) -> Path:
    """A finished run of such images."""
    return _run(folder / "image", (*image_words(folder), *more))


def text_run(folder: Path, *more: str) -> Path:
    """A finished run on 7 kB of text, in 300 byte pairs."""
    (folder / "text.txt").write_text("".join(f"word{i} and {i * 7} more " for i in range(300)), encoding="utf-8")
    return _run(folder / "words", (*TEXT, "--data.dir", str(folder / "text.txt"), *KEPT, *more))


def _run(out: Path, words: Sequence[str]) -> Path:
    said = say("run", *words, "--out", out)
    if said.code:
        raise RuntimeError(f"a small run failed: {said.err}")
    return out
