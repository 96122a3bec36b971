"""The MoE blocks of Hugging Face's transformers as a `SparseMoE`: their weights in, and out again bit by bit.

    layer = from_huggingface(model.state_dict(), model.config, layer=3)
    layer = from_huggingface(PublishedFiles(folder), json.loads((folder / "config.json").read_text()), layer=3)
    weights = to_huggingface(layer, "mixtral")       the block's state dict, as NumPy arrays

The layer computes what the block of transformers 5 does at evaluation; jitter and dropout, which some blocks add in
training, are left out. Neither torch nor transformers is needed. `FAMILIES` names the models; some of them are read
whole by `moejax.huggingface.decoder`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from moejax.errors import abridged
from moejax.huggingface.arrays import as_numpy, check_names, fill, names_of, parts
from moejax.huggingface.blocks import block_prefix
from moejax.huggingface.families import FAMILIES, Entries, Family
from moejax.huggingface.files import PublishedFiles
from moejax.huggingface.make import make_layer
from moejax.inputs import is_computable
from moejax.layers import SparseMoE

__all__ = ["FAMILIES", "PublishedFiles", "from_huggingface", "to_huggingface"]

QUANTISED = ("_scale_inv", "_scale", "_scales", "_blocks", ".qweight", ".qzeros")


def from_huggingface(
    weights: Mapping[str, Any], config: Any, *, layer: int | str | None = None, **layer_options: Any
) -> SparseMoE:
    """The layer that computes what Hugging Face's block does.

    Args:
      weights: the state dict of the block, or of anything around it up to the whole model, by the names that
        transformers has in memory or those of published files. Arrays are PyTorch's, NumPy's or JAX's; their dtypes
        stay as they are, but that JAX by itself makes float64 float32.
      config: the model's configuration, or what its `config.json` holds.
      layer: which layer, where the weights have several: its number, or the beginning of its arrays' names.
      layer_options: of `SparseMoE`. Unless they say otherwise the dispatch is "grouped" and nothing is dropped; Switch
        drops what exceeds the `expert_capacity` of its configuration in a sequence, one group of the layer's input.

    Raises ValueError, in one sentence, for a model that is not in `FAMILIES` or that this layer does not compute, an
    incomplete configuration, a layer without experts, and weights that are missing, unknown, quantised or misshapen.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(f"weights is {abridged(repr(weights))}; pass a state dict, or PublishedFiles(folder).")
    read = Entries(config)
    family = read.family
    prefix = block_prefix(weights, family, layer)
    moe = jax.eval_shape(partial(make_layer, read, layer_options))
    of_block = [name for name in weights if name.startswith(prefix)]
    if quantised := sorted(name for name in of_block if name.endswith(QUANTISED)):
        raise ValueError(f"the weights are quantised, as {quantised[0]} shows; dequantise them first.")
    arrays = {name.removeprefix(prefix): as_numpy(weights[name]) for name in of_block}
    if coded := sorted(name for name, array in arrays.items() if not is_computable(array.dtype)):
        kind = f"{coded[0]} of {arrays[coded[0]].dtype}"
        raise ValueError(f"the weights are quantised, as {prefix}{kind} shows; dequantise them first.")

    # In memory and in files the names differ, and sometimes the order of axes: the one that fits best.
    ways = [
        parts(moe, names, input_first)
        for names in (family.names, family.names | family.published)
        for input_first in (family.input_first, not family.input_first)
    ]

    def fitting(way) -> int:
        return sum(name in arrays and arrays[name].shape == part.shape for part in way for name in part.names)

    way = max(ways, key=fitting)
    check_names("weights", set(arrays), names_of(way), f"{read.model_type} block")
    fill(way, arrays, prefix)
    return moe


def to_huggingface(layer: nnx.Module, model_type: str) -> dict[str, np.ndarray]:
    """The layer's weights by the names and in the shapes that transformers' block has in memory.

    Weights say nothing of what is computed with them: a configuration must have the layer's activation, and its k.

    Raises ValueError, in one sentence, for an unknown model type, and a layer whose router, its fixed options or
    parameters are not the block's.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model_type is {model_type!r}; the names are {', '.join(FAMILIES)}.")
    family = FAMILIES[model_type]
    have = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(layer))}
    check_names("layer's parameters", have, set(family.names), f"{model_type} block")
    if problem := _not_of(layer, family):
        raise ValueError(f"a {model_type} block {problem}; export it as another model, or as it is.")
    return {
        name: array for part in parts(layer, family.names, family.input_first) for name, array in part.split().items()
    }


def _not_of(layer: nnx.Module, family: Family) -> str:
    """What such a block has otherwise than the layer, as the end of a sentence; empty if nothing."""
    if not isinstance(layer, SparseMoE):
        return f"is a SparseMoE, and not a {type(layer).__name__}"
    router = layer.router
    if not isinstance(router, family.router):
        return f"has the router {family.router.__name__}, and not {type(router).__name__}"
    if layer.zero_computation is not None:
        return f"has no experts that compute nothing, of which the layer has {layer.zero_computation.total}"
    fixed = {name: value for name, value in family.options.items() if not isinstance(value, str)}
    for name, value in fixed.items():
        if (own := getattr(router, name, value)) != value:
            return f"has {name} {value}, and not {own}"
    return ""
