"""What a newcomer adds: a router, an expert, a model, a data set, each one file and one line of one table.

Run by `test_plain_process.py` in a process of its own. Each part between two bars is a whole such file.
"""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

import moejax
from moejax import run

# ---- a router: a file of moejax/routers/
import jax.numpy as jnp

from moejax import routing
from moejax.options import Positive
from moejax.routers import ROUTERS, Router


class Cosine(Router):
    """The k experts whose vectors point most nearly where the token does.

    Args:
      sharpness: factor on the cosines.
    """

    sharpness: Positive = 10.0

    def choose(self, x, context):
        length = jnp.linalg.norm(self.kernel[...], axis=0) + 1e-6
        return routing.softmax_top_k(self.sharpness * self.logits(x, context) / length, self.k, given=context.given)


ROUTERS["cosine"] = Cosine  # its line
# ---- an expert: a file beside moejax/experts.py
from moejax.experts import apply_linear
from moejax.models.layer import EXPERTS


class Bottleneck(nnx.Module):
    """An MLP around the identity.

    Args:
      gain: factor on the output.
    """

    def __init__(self, d, hidden, *, gain: Positive = 1.0, dtype=None, rngs):
        self.up = nnx.Linear(d, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, d, dtype=dtype, rngs=rngs)
        self.gain = gain

    def __call__(self, x, linear=apply_linear):
        return x + self.gain * linear(self.down, jnp.tanh(linear(self.up, x)))


EXPERTS["bottleneck"] = Bottleneck  # its line
# ---- a model: a file of moejax/models/
from typing import Annotated

from pydantic import Field

from moejax.models import MODELS
from moejax.models.layer import SharedExpertOptions, layer_maker
from moejax.options import Options


class StripsOptions(Options):
    """How many."""

    strips: Annotated[int, Field(ge=1, le=28)] = 7
    """Strips of an image."""


class Strips(nnx.Module):
    """An image cut into strips, which are the tokens of one layer."""

    options, reads, layer_options = StripsOptions, "image", SharedExpertOptions

    def __init__(self, config, num_classes, image_shape, *, rngs):
        self.tokens, pixels = config.model.strips, math.prod(image_shape)
        self.grid = (self.tokens, 1)
        self.moe = layer_maker(config.moe, pixels // self.tokens, jnp.float32)(rngs)
        self.head = nnx.Linear(pixels, num_classes, rngs=rngs)

    def __call__(self, batch, *, train, key=None):
        x = batch["image"].reshape(len(batch["image"]), self.tokens, -1) / 255.0
        y, routing = self.moe(x, train=train, key=key)
        return self.head((x + y).reshape(len(x), -1)), (routing,)


MODELS["strips"] = Strips  # its line
# ---- a data set: a file of moejax/data/
from moejax.data import DATASETS, Dataset
from moejax.data.dataset import Loader, Validation


def load_bars(rows: Annotated[int, Field(ge=2, le=28)] = 4, validation: Validation = 50, seed: int = 0):
    """Images with a bright bar, whose row is the label.

    Args:
      rows: rows that a bar may lie in.
    """
    rng = np.random.default_rng(seed)

    def split(n):
        label = rng.integers(0, rows, n).astype(np.int32)
        image = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        image[np.arange(n), label * 28 // rows] = 250
        return {"image": image, "label": label}

    return Dataset("bars", "seed", f"seed {seed}", {}, split(300), split(validation), split(100), rows)


DATASETS["bars"] = Loader(load_bars, "image", "images with a bar")  # its line
# ----

NEW = {
    "data.name": "bars",
    "data.rows": 3,
    "model.name": "strips",
    "model.strips": 4,
    "moe.layer": "sparse",
    "moe.router": "cosine",
    "moe.sharpness": 5.0,
    "moe.expert": "bottleneck",
    "moe.gain": 0.5,
}


def test_a_run_of_all_four(tmp_path, capsys):
    words = [word for name, value in NEW.items() for word in (f"--{name}", str(value))]
    few = ["--train.epochs", "2", "--train.batch_size", "20", "--out", str(tmp_path / "run")]
    assert run.main(["--config", "mnist_tiny", *words, *few]) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: written[name.split(".")[0]][name.split(".")[1]] for name in NEW} == NEW


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--moe.sharpness", "1"], "moe.sharpness has no effect with moe.layer soft; it belongs to moe.layer sparse"),
        (["--moe.expert", "bottleneck", "--moe.gain", "-1"], "moe.gain is -1.0; it must be a number above 0."),
        (["--data.name", "bars", "--data.rows", "1"], "data.rows is 1; it must be a whole number from 2 to 28."),
    ],
)
def test_their_options_are_checked_as_all_others(words, sentence, capsys):
    assert run.main(["--config", "mnist_soft", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_help_tells_of_them(capsys):
    assert run.main(["--help", "moe.router", "moe.sharpness"]) == 0
    said = capsys.readouterr().out
    assert "cosine" in said
    assert "Factor on the cosines." in said


@pytest.mark.parametrize("made", [False, True])
def test_a_layer_takes_a_router_of_ones_own(made):
    rngs, x = nnx.Rngs(0), jax.random.normal(jax.random.key(0), (2, 9, 8))
    own = Cosine(8, 4, 2, sharpness=3.0, rngs=rngs) if made else Cosine
    options = {} if made else {"sharpness": 3.0}
    layer = moejax.SparseMoE(
        8, 4, lambda rngs: moejax.MLP(8, 16, rngs=rngs), router=own, group_size=0, rngs=rngs, **options
    )
    y, routing = layer(x)
    assert (y.shape, routing.experts.shape, layer.router.sharpness) == (x.shape, (2, 9, 2), 3.0)
    with pytest.raises(ValueError, match="sharpness is 0; it must be a number above 0"):
        Cosine(8, 4, 2, sharpness=0, rngs=rngs)
    with pytest.raises(ValueError, match="slots is no option of Cosine, which has jitter, priority, sharpness"):
        moejax.SparseMoE(8, 4, lambda rngs: moejax.MLP(8, 16, rngs=rngs), router=Cosine, slots=2, rngs=rngs)
