"""A run as Hugging Face's transformers has it: config.json and model.safetensors.

    AutoModelForCausalLM.from_pretrained(folder)                       a language model
    from_huggingface(PublishedFiles(folder), config, layer=0)          the MoE layers of any other network

A decoder is a whole Mixtral or OLMoE. Of another network the layers are blocks, and the rest, which is in no family of
transformers, is left out. A layer is a block where its experts are gated units (`moe.expert glu`) and its router is the
block's. All is read back and compared before it is written.
"""

import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.config import Config
from moejax.data.text_tokens import END
from moejax.errors import UserError
from moejax.huggingface import from_huggingface, to_huggingface
from moejax.huggingface.decoder import decoder_from_huggingface, decoder_to_huggingface
from moejax.layers import SparseMoE
from moejax.models.decoder import Decoder
from moejax.router_updates import moe_layers
from moejax.runs.model import Model

NAME = "model.layers.{layer}.mlp."
_FIT = (
    "blocks of transformers have moe.layer sparse, moe.expert glu and moe.router softmax_top_k or top_k_softmax, or"
    " sigmoid with moe.shared a multiple of moe.hidden"
)

_WHOLE = (
    "a Mixtral has moe.layer sparse in every block (model.moe_every 1), moe.expert glu, moe.router softmax_top_k with"
    " moe.renormalize true and moe.k of 2 or more; an OLMoE the same with model.normalize_queries true, renormalised or"
    " not"
)


def pack(model: Model) -> dict[str, bytes]:
    """The files' contents by name; UserError if the network or its layers are those of no family."""
    from safetensors.numpy import save

    config, arrays = (_whole if isinstance(model.module, Decoder) else _blocks)(model)
    files = {"config.json": (json.dumps(config, indent=1) + "\n").encode()}
    files["model.safetensors"] = save(arrays, metadata={"format": "pt"})
    return files


def _whole(model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and arrays of a language model."""
    config, module = decoder_config(model), cast(Decoder, model.module)
    try:
        arrays = decoder_to_huggingface(module, config["model_type"])
        again = decoder_from_huggingface(arrays, config)
    except ValueError as error:
        raise UserError(f"This run is no {config['model_type']} of Hugging Face: {error}") from None
    tokens = jax.random.randint(jax.random.key(0), (2, module.tokens), 0, config["vocab_size"])
    if not jnp.allclose(_logits(module, tokens), _logits(again, tokens), atol=1e-4):
        raise UserError(f"This run has options that a {config['model_type']} of Hugging Face has not; {_WHOLE}.")
    return config, arrays


def _blocks(model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Those of the MoE layers alone."""
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
    return entries | {"num_hidden_layers": n + 1}, arrays


@jax.jit
def _logits(model: Decoder, tokens: Int[Array, "b t"]) -> Float[Array, "b t y"]:
    return model({"tokens": tokens}, train=False)[0]


@jax.jit
def _output(layer: SparseMoE, x: Float[Array, "g t d"]) -> Float[Array, "g t d"]:
    return layer(x)[0]


def decoder_config(model: Model) -> dict[str, Any]:
    """What the config.json of transformers says of such a language model."""
    config: Any = model.config
    m, found = config.model, block_config(config)
    kind = "olmoe" if m.normalize_queries else "mixtral"
    if found["model_type"] not in ("mixtral", "olmoe") or (kind == "mixtral" and not config.moe.renormalize):
        raise UserError(f"This run is no language model of Hugging Face; {_WHOLE}.")
    of_kind = {
        "mixtral": {"num_local_experts": config.moe.num_experts, "sliding_window": config.data.length},
        "olmoe": {"num_experts": config.moe.num_experts, "norm_topk_prob": config.moe.renormalize},
    }
    return (
        {name: found[name] for name in ("hidden_act", "num_experts_per_tok", "intermediate_size")}
        | {"model_type": kind, "architectures": [f"{kind.title()}ForCausalLM"]}
        | of_kind[kind]
        | {
            "hidden_size": m.width,
            "num_hidden_layers": m.depth,
            "num_attention_heads": m.heads,
            "num_key_value_heads": m.key_heads or m.heads,
            "rms_norm_eps": m.epsilon,
            "rope_parameters": {"rope_type": "default", "rope_theta": m.theta},
            "rope_theta": m.theta,  # where transformers before 5 looks for it
            "tie_word_embeddings": m.tied,
            "max_position_embeddings": config.data.length,
            "vocab_size": model.about.num_classes,
            "bos_token_id": END,
            "eos_token_id": END,
            "pad_token_id": None,
            "dtype": "float32",
        }
    )


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
