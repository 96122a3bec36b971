"""Whole language models of Hugging Face's transformers as a `Decoder`: their weights in, and out again bit by bit.

    model = decoder_from_huggingface(folder)                       config.json and *.safetensors
    model = decoder_from_huggingface(theirs.state_dict(), theirs.config)
    weights = decoder_to_huggingface(model, "mixtral")             the state dict, as NumPy arrays

Those families are whole whose entry in `FAMILIES` has names beside its block's: Mixtral and OLMoE.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from moejax.config import Config, make_config
from moejax.errors import UserError
from moejax.huggingface import from_huggingface, to_huggingface
from moejax.huggingface.arrays import Part, as_numpy, check_names, fill, names_of, parts
from moejax.huggingface.blocks import block_prefix
from moejax.huggingface.families import AROUND, FAMILIES, HEAD, LAYER, Entries, Names
from moejax.huggingface.files import PublishedFiles
from moejax.inputs import ComputeDtype
from moejax.json_text import read_json
from moejax.models.decoder import Decoder
from moejax.options import require

BLOCK = LAYER + "mlp."  # what a block's names begin with in transformers' memory


def decoder_from_huggingface(
    weights: Mapping[str, Any] | Path | str,
    config: Any = None,
    *,
    length: int | None = None,
    dtype: DTypeLike = "float32",
) -> Decoder:
    """The decoder that computes what Hugging Face's model does.

    Args:
      weights: a folder with config.json and *.safetensors, or the state dict of the model with its head, by the names
        that transformers has in memory or those of published files. Arrays keep their dtypes.
      config: the model's configuration, or what its `config.json` holds; None: that of the folder.
      length: tokens that attention sees and a cache has room for; None: as many as the model was made for. Of longer
        texts the model then reads the last `length` tokens at each place.
      dtype: the type to compute in.

    Raises ValueError, in one sentence, for a model that is no such decoder, an incomplete configuration, and weights
    that are missing, unknown, quantised or misshapen.
    """
    if isinstance(weights, str | Path):
        config = _configuration(Path(weights)) if config is None else config
        weights = PublishedFiles(weights)
    require("dtype", dtype, ComputeDtype)
    if config is None:
        raise ValueError("config is None; pass the configuration of the model whose weights these are.")
    read = Entries(config, "model")
    made_for = settings(read, length, np.dtype(dtype).name)
    model = jax.eval_shape(lambda: Decoder(made_for, read("vocab_size"), rngs=nnx.Rngs(0)))

    load = partial(from_huggingface, weights, config, dtype=np.dtype(dtype))
    prefixes = []
    for n, block in enumerate(model.blocks):
        block.moe = load(layer=n)
        prefixes.append(block_prefix(weights, read.family, n))
    around = _around(model, read.family.in_layer)
    elsewhere = {name for name in weights if not name.startswith(tuple(prefixes)) and not _implied(name, model)}
    check_names("weights", elsewhere, names_of(around), f"{read.model_type} model")
    fill(around, {name: as_numpy(weights[name]) for name in elsewhere})
    return model


def decoder_to_huggingface(model: Decoder, model_type: str) -> dict[str, np.ndarray]:
    """The decoder's weights by the names and in the shapes that transformers' model has in memory.

    Raises ValueError, in one sentence, for an unknown model type and a decoder whose parameters are not that model's.
    """
    if model_type not in whole_families():
        raise ValueError(f"model_type is {model_type!r}; the names are {', '.join(whole_families())}.")
    family, arrays = FAMILIES[model_type], dict[str, np.ndarray]()
    for n, block in enumerate(model.blocks):
        have = {path for path in _paths(block) if not path.startswith("moe.")}
        check_names(f"parameters of block {n}", have, set(family.in_layer), f"{model_type} model's layer")
        of_block = to_huggingface(block.moe, model_type)
        arrays |= {BLOCK.format(n) + name: array for name, array in of_block.items()}
    for part in _around(model, family.in_layer):
        arrays |= part.split()
    return arrays


def _configuration(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that has, or pass config.")
    try:
        return read_json((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{folder / 'config.json'} cannot be read ({error}); fetch it again, whole.") from None


def whole_families() -> list[str]:
    """Those whose whole models are decoders."""
    return [name for name, family in FAMILIES.items() if family.in_layer]


def settings(read: Entries, length: int | None, dtype: str) -> Config:
    """The decoder's configuration."""
    if not read.family.in_layer:
        raise ValueError(
            f"config's model_type is {read.model_type!r}, of which from_huggingface loads the blocks; whole models are"
            f" loaded of {' and '.join(whole_families())}."
        )
    read.require(read.family.whole_only)
    width, heads = read.positive("hidden_size"), read.positive("num_attention_heads")
    if (head := read("head_dim", default=width // heads)) * heads != width:
        raise ValueError(
            f"config's head_dim is {head}; {heads} heads of a decoder share hidden_size, {width}, so that it is"
            f" {width // heads}."
        )
    made_for = read("sliding_window", "max_position_embeddings")
    if length is not None and length > made_for:
        raise ValueError(f"length is {length}, but the model attends to {made_for} tokens; pass that or fewer.")
    model = {
        "name": "decoder",
        "width": width,
        "depth": read("num_hidden_layers"),
        "heads": heads,
        "key_heads": read("num_key_value_heads", default=heads),
        "tied": read("tie_word_embeddings", default=False),
        "normalize_queries": "attention.query_norm.scale" in read.family.in_layer,
        "epsilon": read("rms_norm_eps"),
        "theta": _theta(read),
    }
    moe = {"layer": "sparse", "expert": "glu"}  # `from_huggingface` makes the layers
    data = {"name": "text", "length": made_for if length is None else length}
    try:
        return make_config(data=data, model=model, moe=moe, train={"dtype": dtype})
    except UserError as error:
        raise ValueError(f"this model is no decoder: {error}") from None


def _theta(read: Entries) -> float:
    """The base of the rotary positions, which older configurations keep beside how they are scaled."""
    rope = read.entries.get("rope_parameters") or read.entries.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise ValueError(f"config's rope_type is {kind!r}; a decoder's rotary positions are not scaled ('default').")
    return rope.get("rope_theta") or read("rope_theta")


def _around(model: Decoder, in_layer: Names) -> list[Part]:
    """All arrays but those of the MoE blocks."""
    found = parts(model, AROUND if model.head is None else AROUND | HEAD)
    for n, block in enumerate(model.blocks):
        found += parts(
            block, {path: tuple(LAYER.format(n) + name for name in names) for path, names in in_layer.items()}
        )
    return found


def _paths(module: nnx.Module) -> set[str]:
    return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module))}


def _implied(name: str, model: Decoder) -> bool:
    """Whether an array follows from others: wavelengths, and a tied model's head."""
    return name.endswith("rotary_emb.inv_freq") or (model.head is None and (name,) in HEAD.values())
