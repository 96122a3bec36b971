"""A BERT's weights as PyTorch saves them, for our encoder: linear maps transposed, query, key and value joined.

Where a block has an MoE layer, every expert becomes a copy of the block's feed-forward layer (`moejax.upcycling`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from moejax.data import minilm
from moejax.errors import UserError
from moejax.experts import MLP
from moejax.models.bert.classifier import EncoderClassifier
from moejax.models.bert.encoder import POSITIONS, SEGMENTS, Attention, Block
from moejax.options import Options
from moejax.upcycling import copies

Weights = Mapping[str, Array | ndarray]


def shapes(config: Options) -> dict[str, tuple[int, ...]]:
    """The arrays that the encoder of this configuration needs, with their shapes."""
    m, hidden = config.model, config.moe.hidden
    d = m.width
    tables = {"word": config.data.vocabulary, "position": POSITIONS, "token_type": SEGMENTS}
    needed = {f"embeddings.{name}_embeddings.weight": (rows, d) for name, rows in tables.items()}
    needed |= _norm("embeddings.LayerNorm", d) | _linear("pooler.dense", d, d)
    for i in range(m.depth):
        layer = f"encoder.layer.{i}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            needed |= _linear(f"{layer}attention.{name}", d, d)
        needed |= _linear(f"{layer}intermediate.dense", d, hidden) | _linear(f"{layer}output.dense", hidden, d)
        needed |= _norm(f"{layer}attention.output.LayerNorm", d) | _norm(f"{layer}output.LayerNorm", d)
    return needed


def _linear(name: str, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (d_out, d_in), f"{name}.bias": (d_out,)}


def _norm(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (d,), f"{name}.bias": (d,)}


def pretrained(config: Options) -> dict[str, ndarray]:
    """The weights of MiniLM that this configuration needs.

    Raises:
      UserError: they cannot be found, or the configuration is not that of MiniLM.
    """
    return select(minilm.load_weights(config.data.tokenizer, config.data.dir), config)


def select(weights: Mapping[str, ndarray], config: Options) -> dict[str, ndarray]:
    """The arrays that this configuration needs; UserError if one is missing, of another shape or not of floats."""
    for name, shape in shapes(config).items():
        found = weights[name].shape if name in weights else None
        if found is not None and weights[name].dtype.kind != "f":
            raise UserError(
                f"The pre-trained weights have {name} of type {weights[name].dtype}, expected floats: name others."
            )
        if found != shape:
            raise UserError(
                f"The pre-trained weights have {name} of shape {found} where this configuration needs {shape}; set"
                " data.vocabulary, model.width, model.depth and moe.hidden as the weights have them."
            )
    return {name: weights[name] for name in shapes(config)}


def fill(model: EncoderClassifier, weights: Weights, *, noise: float, rngs: nnx.Rngs) -> EncoderClassifier:
    """The model with those weights: a fresh router and head, everything else from PyTorch's arrays.

    `noise`: of the experts, as in `moejax.upcycling.copies`.
    """
    model = jax.tree.map(lambda leaf: leaf, model)  # a copy: the caller's model stays as it is
    embeddings = model.encoder.embeddings
    tables = {"word": embeddings.piece, "position": embeddings.position, "token_type": embeddings.segment}
    for name, table in tables.items():
        table.set_value(jnp.asarray(weights[f"embeddings.{name}_embeddings.weight"]))
    _fill_norm(embeddings.norm, weights, "embeddings.LayerNorm")
    _fill_linear(model.pooler, weights, "pooler.dense")
    for i, block in enumerate(model.encoder.blocks):
        _fill_block(block, weights, f"encoder.layer.{i}.", noise, rngs)
    return model


def _fill_block(block: Block, weights: Weights, layer: str, noise: float, rngs: nnx.Rngs) -> None:
    _fill_attention(block.attention, weights, f"{layer}attention.")
    _fill_norm(block.attention_norm, weights, f"{layer}attention.output.LayerNorm")
    _fill_norm(block.norm, weights, f"{layer}output.LayerNorm")
    if block.moe is None:
        _fill_mlp(block.mlp, weights, layer)
    else:
        dense = jax.tree.map(lambda stacked: stacked[0], block.moe.experts)
        _fill_mlp(dense, weights, layer)
        num_experts = len(jax.tree.leaves(block.moe.experts)[0])
        block.moe.experts = copies(dense, num_experts, noise=noise, rngs=rngs)


def _fill_attention(attention: Attention, weights: Weights, name: str) -> None:
    parts = [f"{name}self.{part}" for part in ("query", "key", "value")]
    attention.query_key_value.kernel.set_value(jnp.concatenate([weights[f"{p}.weight"].T for p in parts], axis=1))
    attention.query_key_value.bias.set_value(jnp.concatenate([weights[f"{p}.bias"] for p in parts]))
    _fill_linear(attention.output, weights, f"{name}output.dense")


def _fill_mlp(mlp: MLP, weights: Weights, layer: str) -> None:
    _fill_linear(mlp.up, weights, f"{layer}intermediate.dense")
    _fill_linear(mlp.down, weights, f"{layer}output.dense")


def _fill_linear(linear: nnx.Linear, weights: Weights, name: str) -> None:
    linear.kernel.set_value(jnp.asarray(weights[f"{name}.weight"]).T)
    linear.bias.set_value(jnp.asarray(weights[f"{name}.bias"]))


def _fill_norm(norm: nnx.LayerNorm, weights: Weights, name: str) -> None:
    norm.scale.set_value(jnp.asarray(weights[f"{name}.weight"]))
    norm.bias.set_value(jnp.asarray(weights[f"{name}.bias"]))
