"""An image classifier: the image becomes tokens, and each of its blocks holds one Mixture-of-Experts layer.

    image ─ stem ─ tokens ─ [ + convolution(norm) ─ + MoE(norm) ] × depth ─ norm ─ all tokens, flattened ─ classes

Axis letters: b images, i j rows and columns, t tokens of an image, d model width, y classes.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key
from pydantic import Field

from moejax.models.layer import MakeLayer, SharedExpertOptions, layer_maker
from moejax.models.pixels import channels, pixels_of_tokens, standardized
from moejax.options import Options
from moejax.routing import Routing


def patches(x: Float[Array, "b i j c"], size: int, stride: int) -> Float[Array, "b i2 j2 c2"]:
    """All size × size windows at that stride as channels, zero-padded to ceil(i / stride) rows ("SAME").

    Followed by a matrix product this is a convolution. Inside `lax.scan` on a CPU it runs 15 times faster than XLA's
    own. Windows are joined from blocks of gcd(size, stride) pixels a side, so that size 6 at stride 3 takes 4 slices
    instead of 36, and as many for the gradient. The channels are ordered by row of blocks, column of blocks, row in the
    block, column in the block, channel of `x`.
    """
    b, i, j, c = x.shape
    rows, columns = -(-i // stride), -(-j // stride)
    pad = [max((out - 1) * stride + size - n, 0) for out, n in ((rows, i), (columns, j))]
    x = jnp.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pad), (0, 0)))

    block = math.gcd(size, stride)
    high, wide = x.shape[1] // block, x.shape[2] // block
    x = x[:, : high * block, : wide * block].reshape(b, high, block, wide, block, c)
    x = x.swapaxes(2, 3).reshape(b, high, wide, block * block * c)
    step, offsets = stride // block, range(size // block)
    last_row, last_column = (rows - 1) * step + 1, (columns - 1) * step + 1
    windows = [x[:, u : u + last_row : step, v : v + last_column : step] for u in offsets for v in offsets]
    return jnp.concatenate(windows, axis=-1)


class ImageOptions(Options):
    """The sizes of an image classifier."""

    stem: Annotated[int, Field(ge=1, le=2**14)] = 32
    """Channels of the stem's first convolution."""
    # Each pixel of a kernel may be a slice: more than 9 a side take minutes to compile.
    kernel: Annotated[int, Field(ge=1, le=9)] = 6
    """Side of the stem's convolution kernels, in pixels."""
    stride: Annotated[int, Field(ge=1, le=14)] = 3
    """Stride of the second convolution, after 2 of the first: 2 makes 7 × 7 tokens of 28 × 28 pixels, 3 makes 5 × 5."""
    width: Annotated[int, Field(ge=1, le=2**16)] = 48
    """Numbers per token (d)."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Blocks, each with one MoE layer."""
    neighbours: Annotated[int, Field(ge=0, le=9)] = 0
    """Side of the convolution before each MoE layer, in tokens; 0 leaves it out."""


def grid_of(m: Options, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of tokens of an image of this shape."""
    rows, columns = (-(-n // 2 // m.stride) for n in image_shape[:2])
    return rows, columns


class Stem(nnx.Module):
    """Two strided convolutions: an image becomes a grid of tokens."""

    def __init__(self, m: Options, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel, self.stride = m.kernel, m.stride
        self.first = nnx.Linear(m.kernel**2 * channels, m.stem, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(m.kernel**2 * m.stem, m.width, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "b i j *c"]) -> Float[Array, "b i2 j2 d"]:
        x = images[..., None] if images.ndim == 3 else images
        x = jax.nn.gelu(self.first(patches(x, self.kernel, 2)))
        return jax.nn.gelu(self.second(patches(x, self.kernel, self.stride)))


class Neighbours(nnx.Module):
    """A residual convolution over the grid of tokens, after a norm: each token sees its neighbours."""

    def __init__(self, m: Options, grid: tuple[int, int], *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.grid, self.kernel = grid, m.neighbours
        self.norm = nnx.LayerNorm(m.width, dtype=dtype, rngs=rngs)
        self.convolution = nnx.Linear(m.neighbours**2 * m.width, m.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        grid = self.norm(x).reshape(x.shape[0], *self.grid, -1)
        return x + jax.nn.gelu(self.convolution(patches(grid, self.kernel, 1))).reshape(x.shape)


class Block(nnx.Module):
    """A convolution over the tokens if there is one, then a norm and a residual Mixture-of-Experts layer."""

    def __init__(self, m: Options, grid: tuple[int, int], make_layer: MakeLayer, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.neighbours = Neighbours(m, grid, dtype=dtype, rngs=rngs) if m.neighbours else None
        self.norm = nnx.LayerNorm(m.width, dtype=dtype, rngs=rngs)
        self.moe = make_layer(rngs)

    def __call__(
        self, x: Float[Array, "b t d"], *, train: bool, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b t d"], Routing]:
        if self.neighbours is not None:
            x = self.neighbours(x)
        y, routing = self.moe(self.norm(x), train=train, key=key)
        return x + y, routing


class ImageClassifier(nnx.Module):
    """A convolutional stem makes an image a grid of tokens; blocks with an MoE layer each; a linear head."""

    options, reads = ImageOptions, "image"
    layer_options = SharedExpertOptions

    def __init__(self, config: Options, num_classes: int, image_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        m, dtype = config.model, jnp.dtype(config.train.dtype)
        make_layer = layer_maker(config.moe, m.width, dtype)
        self.grid = grid = grid_of(m, image_shape)
        self.tokens = math.prod(grid)
        self.stem = Stem(m, channels(image_shape), dtype=dtype, rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (self.tokens, m.width)))
        self.blocks = nnx.List([Block(m, grid, make_layer, dtype=dtype, rngs=rngs) for _ in range(m.depth)])
        self.norm = nnx.LayerNorm(m.width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(self.tokens * m.width, num_classes, dtype=dtype, rngs=rngs)

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["image"]`: [b, *image_shape], 0 to 255; `key`: for routers with noise. The logits are float32."""
        x = self.stem(standardized(batch["image"]))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.position[...].astype(x.dtype)[None]
        routings = []
        for layer, block in enumerate(self.blocks):
            x, routing = block(x, train=train, key=None if key is None else jax.random.fold_in(key, layer))
            routings.append(routing)
        x = self.norm(x)
        return self.head(x.reshape(x.shape[0], -1)).astype(jnp.float32), tuple(routings)

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t pixels"]:
        """The pixels that a token covers."""
        return pixels_of_tokens(batch["image"], self.grid)
