"""The network around the layers: an image classifier whose blocks hold one Mixture-of-Experts layer each.

    image ─ stem ─ tokens ─ [ + convolution(norm) ─ + MoE(norm) ] × depth ─ norm ─ all tokens, flattened ─ classes

Axis letters: b images, i j rows and columns, t tokens of an image, d model width, y classes.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key

from moejax.config import Config, ModelConfig, MoeConfig
from moejax.dispatch import default_group_size
from moejax.experts import GLU, MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.routers import RouterOptions
from moejax.routing import Routing

MakeLayer = Callable[[nnx.Rngs], nnx.Module]

# Pixel statistics of the MNIST training images, in units of 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081


def patches(x: Float[Array, "b i j c"], size: int, stride: int) -> Float[Array, "b i2 j2 c2"]:
    """All size × size windows at that stride as channels, zero-padded to ceil(i / stride) rows ("SAME").

    A matrix product after it makes it a convolution, and on a CPU inside `lax.scan` one that runs 15 times faster than
    XLA's own. Windows are put together from blocks of gcd(size, stride) pixels, whose channels come first, in order
    (row of blocks, column of blocks, row in block, column in block, channel): size 6 at stride 3 takes 4 slices
    instead of 36, and its gradient as many.
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


class Stem(nnx.Module):
    """Two strided convolutions: an image becomes a grid of tokens."""

    def __init__(self, m: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel, self.stride = m.kernel, m.stride
        self.first = nnx.Linear(m.kernel**2, m.stem, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(m.kernel**2 * m.stem, m.width, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "b i j"]) -> Float[Array, "b i2 j2 d"]:
        x = jax.nn.gelu(self.first(patches(images[..., None], self.kernel, 2)))
        return jax.nn.gelu(self.second(patches(x, self.kernel, self.stride)))


class Neighbours(nnx.Module):
    """A residual convolution over the grid of tokens, with its norm before it: each token sees those around it."""

    def __init__(self, m: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.grid, self.kernel = m.grid, m.neighbours
        self.norm = nnx.LayerNorm(m.width, dtype=dtype, rngs=rngs)
        self.convolution = nnx.Linear(m.neighbours**2 * m.width, m.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        grid = self.norm(x).reshape(len(x), *self.grid, -1)
        return x + jax.nn.gelu(self.convolution(patches(grid, self.kernel, 1))).reshape(x.shape)


class Block(nnx.Module):
    """A residual Mixture-of-Experts layer with its norm before it, and before that a convolution if there is one."""

    def __init__(self, m: ModelConfig, make_layer: MakeLayer, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.neighbours = Neighbours(m, dtype=dtype, rngs=rngs) if m.neighbours else None
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
    """Classifies grey images; returns class logits and the routing of every layer."""

    def __init__(self, config: Config, num_classes: int, *, rngs: nnx.Rngs):
        m, dtype = config.model, jnp.dtype(config.train.dtype)
        make_layer = layer_maker(config.moe, m.width, dtype)
        self.grid, self.tokens = m.grid, m.tokens
        self.stem = Stem(m, dtype=dtype, rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (m.tokens, m.width)))
        self.blocks = nnx.List([Block(m, make_layer, dtype=dtype, rngs=rngs) for _ in range(m.depth)])
        self.norm = nnx.LayerNorm(m.width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(m.tokens * m.width, num_classes, dtype=dtype, rngs=rngs)

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["image"]`: [b, 28, 28] with values 0 to 255; `key`: for routers with noise. The logits are float32."""
        x = self.stem((batch["image"].astype(jnp.float32) / 255 - _MEAN) / _DEVIATION)
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x + self.position[...].astype(x.dtype)[None]
        routings = []
        for layer, block in enumerate(self.blocks):
            x, routing = block(x, train=train, key=None if key is None else jax.random.fold_in(key, layer))
            routings.append(routing)
        x = self.norm(x)
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32), tuple(routings)


def layer_maker(moe: MoeConfig, d: int, dtype: DTypeLike) -> MakeLayer:
    """The constructor of the layer that `moe.layer` names."""
    expert = {"mlp": MLP, "glu": GLU}[moe.expert]

    def make_expert(rngs: nnx.Rngs) -> nnx.Module:
        return expert(d, moe.hidden, dtype=dtype, rngs=rngs)

    def make_shared(rngs: nnx.Rngs) -> nnx.Module:
        return expert(d, moe.shared, dtype=dtype, rngs=rngs)

    layers: dict[str, MakeLayer] = {
        "dense": lambda rngs: DenseMoE(
            d,
            moe.num_experts,
            make_expert,
            temperature=moe.temperature,
            learn_temperature=moe.learn_temperature,
            final_temperature=moe.final_temperature,
            rngs=rngs,
        ),
        "sparse": lambda rngs: SparseMoE(
            d,
            moe.num_experts,
            make_expert,
            k=moe.k,
            router=moe.router,
            options=RouterOptions(**{f.name: getattr(moe, f.name) for f in dataclasses.fields(RouterOptions)}),
            dispatch=moe.dispatch,
            capacity_factor=moe.capacity_factor,
            eval_capacity_factor=moe.eval_capacity_factor,
            group_size=moe.group_size or default_group_size(moe.hidden),
            make_shared=make_shared if moe.shared else None,
            rngs=rngs,
        ),
        "soft": lambda rngs: SoftMoE(d, moe.num_experts, make_expert, slots=moe.slots, scale=moe.scale, rngs=rngs),
    }
    return layers[moe.layer]


def build_model(config: Config, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """The model for a configuration: one place to add a model for another data set."""
    return ImageClassifier(config, num_classes, rngs=rngs)


def after_step(steps: int) -> Callable[[nnx.Module, Float[Array, "l e"], Int[Array, ""]], nnx.Module]:
    """`(model, load of each layer, step) → model`: what routers change by themselves after each of `steps` steps."""

    def update(model: nnx.Module, load: Float[Array, "l e"], step: Int[Array, ""]) -> nnx.Module:
        model = jax.tree.map(lambda leaf: leaf, model)  # a copy: the caller's model stays as it is
        for block, share in zip(model.blocks, load, strict=True):
            block.moe.router.after_step(share, step / steps)
        return model

    return update
