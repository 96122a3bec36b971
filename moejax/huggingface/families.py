"""The model families: how each one's MoE block routes, and what its weights and configuration entries are called.

A new family is one entry of `FAMILIES`, under the `model_type` of its configuration.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from moejax.errors import abridged
from moejax.experts import GLU, MLP
from moejax.huggingface.parts import BiasedTopKSoftmax, ClampedGLU
from moejax.makers import MakeExpert
from moejax.options import Width, require
from moejax.routers import Router
from moejax.routers.sigmoid import SigmoidTopK
from moejax.routers.top_k import SoftmaxTopK, Switch, TopKSoftmax

Names = Mapping[str, tuple[str, ...]]  # path of our array → theirs, which one after the other make it up

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
}


class Entries:
    """A configuration, read by its entries' names."""

    def __init__(self, config: Any, what: str = "block"):
        """`config`: transformers' object or a dict; of a model with images, the part on text is read.

        `what`: what it is read for.
        """
        self.what = what
        entries = config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(entries, Mapping):
            raise ValueError(
                f"config is {abridged(repr(config))}; pass transformers' configuration, or the dict that its"
                " config.json holds."
            )
        self.entries = entries.get("text_config") or entries
        self.model_type = str(self.entries.get("model_type")).removesuffix("_text")
        if self.model_type not in FAMILIES:
            raise ValueError(f"config's model_type is {self.model_type!r}; the names are {', '.join(FAMILIES)}.")
        self.family = FAMILIES[self.model_type]
        self.require(self.family.only)

    def require(self, only: Mapping[str, tuple]) -> None:
        """ValueError if one of these entries has another value; one that is missing or None is fine."""
        for name, values in only.items():
            if self.entries.get(name) not in (None, *values):
                raise ValueError(
                    f"config's {name} is {self.entries[name]!r}; a {self.model_type} {self.what} is computed here for"
                    f" {' and '.join(map(repr, values or (None,)))} alone."
                )

    def __call__(self, *names: str, default: Any = None) -> Any:
        """The entry by the first of its names that there is: not all models call it the same."""
        for name in names:
            if self.entries.get(name) is not None:
                return self.entries[name]
        if default is None:
            names = " or ".join(map(repr, names))
            raise ValueError(f"config has no {names}, which a {self.model_type} {self.what} needs.")
        return default

    def positive(self, name: str) -> int:
        """The entry of that name, a whole number above 0."""
        require(name, value := self(name), Width)
        return value

    def activation(self) -> Callable:
        """The experts' activation."""
        name = self("hidden_act", "dense_act_fn")
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {name!r}; the names are {', '.join(ACTIVATIONS)}.")
        return ACTIVATIONS[name]


def glu(read: Entries, d: int, h: int) -> MakeExpert:
    """The gated expert of most families."""
    activation = read.activation()
    return lambda rngs: GLU(d, h, activation=activation, rngs=rngs)


def mlp(read: Entries, d: int, h: int) -> MakeExpert:
    """Switch's expert."""
    activation = read.activation()
    return lambda rngs: MLP(d, h, activation=activation, use_bias=False, rngs=rngs)


def clamped_glu(read: Entries, d: int, h: int) -> MakeExpert:
    """gpt-oss's expert."""
    alpha, limit = read("swiglu_alpha", default=1.702), read("swiglu_limit", default=7.0)
    return lambda rngs: ClampedGLU(d, h, alpha=alpha, limit=limit, rngs=rngs)


GATE = {"router.kernel": ("gate.weight",)}
STACKED = {"experts.gate_up.kernel": ("experts.gate_up_proj",), "experts.down.kernel": ("experts.down_proj",)}
PUBLISHED = {  # {}: the number of each expert
    "experts.gate_up.kernel": ("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"),
    "experts.down.kernel": ("experts.{}.down_proj.weight",),
}


def _shared(name: str) -> dict[str, tuple[str, ...]]:
    return {
        "shared.gate_up.kernel": (f"{name}.gate_proj.weight", f"{name}.up_proj.weight"),
        "shared.down.kernel": (f"{name}.down_proj.weight",),
    }


AROUND = {"embeddings": ("model.embed_tokens.weight",), "norm.scale": ("model.norm.weight",)}
HEAD = {"head.kernel": ("lm_head.weight",)}  # of models that are not tied
LAYER = "model.layers.{}."  # what the names of a layer's arrays begin with
IN_LAYER = {
    "attention_norm.scale": ("input_layernorm.weight",),
    "attention.query.kernel": ("self_attn.q_proj.weight",),
    "attention.key.kernel": ("self_attn.k_proj.weight",),
    "attention.value.kernel": ("self_attn.v_proj.weight",),
    "attention.output.kernel": ("self_attn.o_proj.weight",),
    "norm.scale": ("post_attention_layernorm.weight",),
}
QUERY_NORMS = {
    "attention.query_norm.scale": ("self_attn.q_norm.weight",),
    "attention.key_norm.scale": ("self_attn.k_norm.weight",),
}


class Family(NamedTuple):
    """One family's block and, where its whole models are those of `moejax.models.decoder`, what is around it.

    `names`: of all arrays in transformers' memory; `published`: of those that files call otherwise.
    """

    router: type[Router]
    options: Mapping[str, str | bool | int]  # of the router: an entry of the configuration, or a value
    names: Names = GATE | STACKED
    published: Names = PUBLISHED
    hidden: str = "moe_intermediate_size"  # configuration: width of an expert
    make_expert: Callable[[Entries, int, int], MakeExpert] = glu
    input_first: bool = False  # stacked experts are [e, in, out] in transformers' memory, not [e, out, in]
    shared_width: tuple[str, ...] = ()  # configuration: width of the expert of every token, the product of these
    only: Mapping[str, tuple] = {}  # configuration: values of an entry beside which the block would be another one
    in_layer: Mapping[
        str, tuple[str, ...]
    ] = {}  # of the arrays of a layer beside its block; none: the blocks alone are computed here
    whole_only: Mapping[str, tuple] = {}  # as `only`, of the whole model


_RENORMALIZE = {"renormalize": "norm_topk_prob"}
_GROUPS = {"num_expert_groups": "n_group", "topk_group": "topk_group"} | {
    "routed_scaling_factor": "routed_scaling_factor"
}
_QWEN2 = Family(
    SoftmaxTopK,
    _RENORMALIZE,
    names=GATE | STACKED | _shared("shared_expert") | {"shared_gate.kernel": ("shared_expert_gate.weight",)},
    shared_width=("shared_expert_intermediate_size",),
)
_DEEPSEEK = Family(
    SigmoidTopK,
    _RENORMALIZE | _GROUPS,
    names=GATE | STACKED | _shared("shared_experts") | {"router.bias": ("gate.e_score_correction_bias",)},
    shared_width=("moe_intermediate_size", "n_shared_experts"),
    only={"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
)

FAMILIES: dict[str, Family] = {
    "mixtral": Family(
        SoftmaxTopK,
        {"renormalize": True},
        hidden="intermediate_size",
        published={
            "experts.gate_up.kernel": ("experts.{}.w1.weight", "experts.{}.w3.weight"),
            "experts.down.kernel": ("experts.{}.w2.weight",),
        },
        in_layer=IN_LAYER,
    ),
    "olmoe": Family(
        SoftmaxTopK,
        _RENORMALIZE,
        hidden="intermediate_size",
        in_layer=IN_LAYER | QUERY_NORMS,
        whole_only={"attention_bias": (False,), "clip_qkv": (), "sliding_window": ()},
    ),
    "qwen2_moe": _QWEN2,
    "qwen3_moe": Family(SoftmaxTopK, _RENORMALIZE),
    "qwen3_next": _QWEN2,
    "qwen3_vl_moe": Family(SoftmaxTopK, {"renormalize": True}),
    "deepseek_v2": _DEEPSEEK._replace(
        router=SoftmaxTopK,
        options={"renormalize": False} | _GROUPS,
        names=GATE | STACKED | _shared("shared_experts"),
        only={
            "scoring_func": ("softmax",),
            "topk_method": ("greedy", "group_limited_greedy"),
            "norm_topk_prob": (False,),  # transformers' block ignores True, DeepSeek's own does not
        },
    ),
    "deepseek_v3": _DEEPSEEK,
    "glm4_moe": _DEEPSEEK,
    "granitemoe": Family(
        TopKSoftmax,
        {},
        names=STACKED | {"router.kernel": ("router.weight",)},
        hidden="intermediate_size",
        published={
            "router.kernel": ("router.layer.weight",),
            "experts.gate_up.kernel": ("input_linear.weight",),
            "experts.down.kernel": ("output_linear.weight",),
        },
    ),
    "gpt_oss": Family(
        BiasedTopKSoftmax,
        {},
        names=STACKED
        | {"experts.gate_up.bias": ("experts.gate_up_proj_bias",), "experts.down.bias": ("experts.down_proj_bias",)}
        | {"router.kernel": ("router.weight",), "router.logits_bias": ("router.bias",)},
        published={},
        hidden="intermediate_size",
        make_expert=clamped_glu,
        input_first=True,
    ),
    "switch_transformers": Family(
        Switch,
        {},
        names={
            "router.kernel": ("router.classifier.weight",),
            "experts.up.kernel": ("experts.expert_{}.wi.weight",),
            "experts.down.kernel": ("experts.expert_{}.wo.weight",),
        },
        published={},
        hidden="d_ff",
        make_expert=mlp,
    ),
}
