"""A sequence classifier: an image is read row by row, and an MoE layer sits between two LSTMs.

    image ─ rows ─ LSTM ─ MoE, at each row ─ LSTM ─ all rows, flattened ─ classes

Axis letters: b images, t rows of an image, d model width, y classes.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key
from pydantic import Field

from moejax.experts import MLP, Linear, apply_linear
from moejax.models.layer import LayerOptions, layer_maker
from moejax.models.pixels import pixels_of_tokens, standardized
from moejax.models.recurrence import LSTM, Bidirectional
from moejax.options import Options
from moejax.routing import Routing


class SoftmaxMLP(MLP):
    """Linear, ReLU, linear, and a softmax over what comes out: an expert's output is a distribution."""

    def __init__(self, d: int, h: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(d, h, activation=jax.nn.relu, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch d"], linear: Linear = apply_linear) -> Float[Array, "*batch d"]:
        return jax.nn.softmax(super().__call__(x, linear), axis=-1)


class LSTMOptions(Options):
    """The width of its LSTMs and their initial bias."""

    width: Annotated[int, Field(ge=1, le=2**16)] = 48
    """Numbers per token (d)."""
    forget_bias: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    """Added to the forget gates' initial bias, so that cells keep what they have at first; 1 is usual."""
    bidirectional: bool = False
    """Half of each LSTM's numbers read the rows from the last back to the first."""


class LSTMClassifier(nnx.Module):
    """Images row by row: an LSTM, an MoE layer at every row, a second LSTM; a linear head over all rows."""

    options, reads = LSTMOptions, "image"
    layer_options = LayerOptions

    def __init__(self, config: Options, num_classes: int, image_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        d, dtype, moe = config.model.width, jnp.dtype(config.train.dtype), config.moe
        rows, *of_row = image_shape
        settings = {"forget_bias": config.model.forget_bias, "dtype": dtype, "rngs": rngs}
        self.grid, self.tokens = (rows, 1), rows  # a token is a row
        layer = Bidirectional if config.model.bidirectional else LSTM
        self.first = layer(math.prod(of_row), d, **settings)
        self.moe = layer_maker(moe, d, dtype, lambda rngs: SoftmaxMLP(d, moe.hidden, dtype=dtype, rngs=rngs))(rngs)
        # An expert's output is a distribution over d numbers, each about 1 / d: too small an input without the scale.
        self.second = layer(d, d, input_scale=d**0.5, **settings)
        self.head = nnx.Linear(self.tokens * d, num_classes, rngs=rngs)

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["image"]`: [b, *image_shape], 0 to 255; `key`: for routers with noise. The logits are float32."""
        x = standardized(batch["image"])
        x = self.first(x.reshape(*x.shape[:2], -1))
        x, routing = self.moe(x, train=train, key=key)
        x = self.second(x)
        return self.head(x.reshape(x.shape[0], -1).astype(jnp.float32)), (routing,)

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        if config.model.bidirectional and config.model.width % 2:
            width = config.model.width
            yield f"model.width is {width}, of which model.bidirectional makes two halves; use {width + 1}."

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t pixels"]:
        """The pixels that a token covers."""
        return pixels_of_tokens(batch["image"], self.grid)
