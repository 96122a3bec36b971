"""A run's MoE layers as blocks of Hugging Face's transformers: config.json and model.safetensors.

    from_huggingface(PublishedFiles(folder), json.loads((folder / "config.json").read_text()), layer=0)

The rest of the network is in no family of transformers and is left out. A layer is a block where its experts are gated
units (`moe.expert glu`) and its router is the block's; every block is read back and compared before it is written.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.config import Config
from moejax.errors import UserError
from moejax.huggingface import from_huggingface, to_huggingface
from moejax.layers import SparseMoE
from moejax.router_updates import moe_layers
from moejax.runs.model import Model

NAME = "model.layers.{layer}.mlp."
_FIT = (
    "blocks of transformers have moe.layer sparse, moe.expert glu and moe.router softmax_top_k or top_k_softmax, or"
    " sigmoid with moe.shared a multiple of moe.hidden"
)


def pack(model: Model) -> dict[str, bytes]:
    """The files' contents by name; UserError if the layers are the block of no family."""
    from safetensors.numpy import save

    found = block_config(model.config)
    arrays: dict[str, np.ndarray] = {}
    for n, layer in enumerate(moe_layers(model.module)):
        entries = found | {"hidden_size": layer.d}
        try:
            block = to_huggingface(layer, entries["model_type"])
            again = from_huggingface(block, entries)
        except ValueError as error:
            raise UserError(f"Layer {n} of this run is no block of {found['model_type']}: {error}") from None
        x = jax.random.normal(jax.random.key(0), (1, 32, layer.d))
        if not jnp.allclose(_output(layer, x), _output(again, x), atol=1e-5):
            raise UserError(f"Layer {n} of this run has options that a block of {found['model_type']} has not; {_FIT}.")
        arrays |= {NAME.format(layer=n) + name: array for name, array in block.items()}
    config = entries | {"num_hidden_layers": n + 1}
    return {"config.json": (json.dumps(config, indent=1) + "\n").encode(), "model.safetensors": save(arrays)}


@jax.jit
def _output(layer: SparseMoE, x: Float[Array, "g t d"]) -> Float[Array, "g t d"]:
    return layer(x)[0]


def block_config(config: Config) -> dict[str, Any]:
    """What the config.json of transformers says of such layers, but for their width."""
    moe: Any = config.moe
    router, shared = getattr(moe, "router", None), getattr(moe, "shared", 0)
    common = {"hidden_act": "silu", "num_experts_per_tok": getattr(moe, "k", None), "intermediate_size": moe.hidden}
    if moe.layer == "sparse" and getattr(moe, "expert", None) == "glu" and config.train.dtype == "float32":
        if router == "softmax_top_k" and not shared:
            family = {"model_type": "mixtral"} if moe.renormalize else {"model_type": "olmoe", "norm_topk_prob": False}
            return common | family | {"num_local_experts": moe.num_experts}
        if router == "top_k_softmax" and not shared:
            return common | {"model_type": "granitemoe", "num_local_experts": moe.num_experts}
        if router == "sigmoid" and shared and shared % moe.hidden == 0:
            return common | {
                "model_type": "deepseek_v3",
                "n_routed_experts": moe.num_experts,
                "moe_intermediate_size": moe.hidden,
                "n_shared_experts": shared // moe.hidden,
                "n_group": moe.num_expert_groups,
                "topk_group": moe.topk_group,
                "norm_topk_prob": moe.renormalize,
                "routed_scaling_factor": moe.routed_scaling_factor,
            }
    raise UserError(f"The layers of this run are blocks of no family of Hugging Face; {_FIT}, in float32.")
