"""A flat classifier: an image is one token of all its numbers, and each expert of its single layer is a classifier.

    image ─ its numbers ─ MoE of perceptrons ─ logits

Axis letters: b images, d numbers of an image, y classes.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key
from pydantic import Field

from moejax.data.domains import number_of_domains
from moejax.errors import UserError
from moejax.experts import Activation, Linear, apply_linear
from moejax.layers import SparseMoE
from moejax.models.dropout import dropout
from moejax.models.layer import LayerOptions, layer_maker
from moejax.models.pixels import pixels_of_tokens, pooled, standardized
from moejax.options import Options, Share
from moejax.routing import Routing, assigned_experts

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "cubic": lambda x: x**3,
    "linear": lambda x: x,
}


class Perceptron(nnx.Module):
    """Linear maps with an activation between them; `normalize`: layer normalisation of the input and hidden layers.

    Batch normalisation would not do: an expert's output for one image must not depend on the others it gets, of which
    there may be few.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: Activation = jax.nn.gelu,
        normalize: bool = False,
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        pairs = itertools.pairwise(widths)
        self.linear = nnx.List([nnx.Linear(a, b, dtype=dtype, rngs=rngs) for a, b in pairs])
        # Without a scale and a bias: the linear map after them has both, and an image is normalised once for
        # all experts.
        bare = {"use_scale": False, "use_bias": False, "dtype": dtype, "rngs": rngs}
        norms = [nnx.LayerNorm(d, **bare) for d in widths[:-1]] if normalize else []
        self.norms, self.activation, self.dropout = nnx.List(norms), activation, dropout
        self.draws = dropout > 0

    def __call__(
        self, x: Float[Array, "*n d"], linear: Linear = apply_linear, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "*n y"]:
        """`key`: for dropout; None: no dropout."""
        *hidden, last = self.linear
        if self.norms:
            x = self.norms[0](x)
        for i, layer in enumerate(hidden, start=1):
            x = self.activation(linear(layer, x))
            if self.norms:
                x = self.norms[i](x)
            x = dropout(None if key is None else jax.random.fold_in(key, i), x, self.dropout)
        return linear(last, x)


class FlatOptions(Options):
    """Its experts, and the router of a dense layer."""

    second_hidden: Annotated[int | None, Field(ge=1, le=2**20)] = 128
    """Width of an expert's second hidden layer, after moe.hidden of its first; none: it has one alone."""
    activation: Literal[*_ACTIVATIONS] = "gelu"
    """What follows each hidden layer of an expert."""
    normalize: bool = False
    """Layer normalisation of an expert's input and hidden layers."""
    dropout: Share = 0.0
    """Share of an expert's hidden numbers set to 0 in training."""
    deep_gate: bool = False
    """Dense: the router's logits come from a network of an expert's shape, not one linear map."""
    guided: bool = False
    """Dense: in training the weights are pulled to the expert that the label is assigned to."""
    pool: Annotated[int, Field(ge=1, le=2**10)] = 1
    """The router reads the means of squares of so many pixels a side: a coarse image, which costs it less."""
    oracle: bool = False
    """Sparse: an image goes to the expert of its domain, which the data tell; the router does not choose."""


class FlatClassifier(nnx.Module):
    """An image is one token; the experts are classifiers, whose mixture gives the logits."""

    options, reads = FlatOptions, "image"
    layer_options, experts_return_tokens = LayerOptions, False
    tokens = 1

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        m, moe = config.model, config.moe
        for name in ("deep_gate", "guided"):
            if getattr(m, name) and moe.layer != "dense":
                yield f"model.{name} is true, but moe.layer is {moe.layer}; it is for the dense layer."
        if m.oracle and moe.layer != "sparse":
            yield f"model.oracle is true, but moe.layer is {moe.layer}; it is for the sparse layer."
        elif m.oracle and moe.k != 1:
            yield f"model.oracle is true, but moe.k is {moe.k}; an image has one domain, so use 1."
        if m.oracle and config.data.name != "domains":
            yield f"model.oracle is true, but data.name is {config.data.name}, which has no domains; use domains."
        elif m.oracle and moe.num_experts < (needed := number_of_domains(config.data)):
            yield f"model.oracle is true, but moe.num_experts is {moe.num_experts}; the data have {needed} domains."
        if m.guided and moe.num_experts < 2:
            yield f"model.guided is true, but moe.num_experts is {moe.num_experts}; guide to one of at least 2."

    def __init__(self, config: Options, num_classes: int, image_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        m, moe, dtype = config.model, config.moe, jnp.dtype(config.train.dtype)
        hidden = (moe.hidden,) if m.second_hidden is None else (moe.hidden, m.second_hidden)
        _check_pool(m.pool, image_shape)
        router_width = math.prod(image_shape) // m.pool**2

        def perceptron(inputs: int, outputs: int, rngs: nnx.Rngs, dtype: DTypeLike = dtype) -> Perceptron:
            return Perceptron(
                (inputs, *hidden, outputs),
                activation=_ACTIVATIONS[m.activation],
                normalize=m.normalize,
                dropout=m.dropout,
                dtype=dtype,
                rngs=rngs,
            )

        make_layer = layer_maker(
            moe,
            router_width,
            dtype,
            lambda rngs: perceptron(math.prod(image_shape), num_classes, rngs),
            (lambda rngs: perceptron(router_width, moe.num_experts, rngs, jnp.float32)) if m.deep_gate else None,
        )
        self.moe = make_layer(rngs)
        self.oracle, self.pool = m.oracle, m.pool
        self.assigned = tuple(map(int, assigned_experts(num_classes, moe.num_experts))) if m.guided else None

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b y"], tuple[Routing, ...]]:
        """`batch["image"]`: [b, *image_shape], values 0 to 255; `key`: for noise and dropout. The logits are float32.

        In training, a guided model also reads `batch["label"]`; one with an oracle always reads `batch["domain"]`.
        """
        x = standardized(batch["image"])
        of_image = {"router_input": pooled(x, self.pool).reshape(x.shape[0], 1, -1)}
        if train and self.assigned is not None:
            of_image["assigned"] = jnp.array(self.assigned)[batch["label"]][:, None]
        if self.oracle:
            of_image["given"] = batch["domain"][:, None, None]
        if isinstance(self.moe, SparseMoE):  # what a hash router hashes: its default, the position, is 0 of every image
            of_image["ids"] = batch["image"].reshape(x.shape[0], -1).sum(1, dtype=jnp.int32)[:, None]
        logits, routing = self.moe(x.reshape(x.shape[0], 1, -1), train=train, key=key, **of_image)
        return logits[:, 0].astype(jnp.float32), (routing,)

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t pixels"]:
        """The image."""
        return pixels_of_tokens(batch["image"], (1, 1))


def _check_pool(pool: int, image_shape: tuple[int, ...]) -> None:
    """UserError unless squares of so many pixels a side divide an image evenly."""
    most = math.gcd(*image_shape[:2])
    if most % pool:
        fitting = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
        sides = " × ".join(map(str, dict.fromkeys(image_shape[:2])))
        raise UserError(f"model.pool is {pool}, which does not divide the {sides} pixels of a side; use {fitting}.")
