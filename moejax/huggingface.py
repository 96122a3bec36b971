"""The MoE blocks of Hugging Face's transformers as a `SparseMoE`: their weights in, and out again bit by bit.

    layer = from_huggingface("mixtral", weights, config)      weights: the block's state dict, as numpy arrays
    weights = to_huggingface("mixtral", layer)                config: the model's, `model.config.to_dict()`

Names and shapes are those of the block in transformers 5, which holds the experts of most models as two arrays,
`experts.gate_up_proj` and `experts.down_proj`. Neither torch nor transformers is needed. The layer computes what the
block does at evaluation; jitter and dropout, which some blocks add in training, are left out.

`KINDS` names the blocks.
"""

import math
from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moejax.experts import GLU, MLP
from moejax.layers import SparseMoE
from moejax.routers import RouterOptions, SigmoidTopK, TopKSoftmax

Weights = Mapping[str, np.ndarray]
Config = Mapping[str, Any]


class Kind(NamedTuple):
    """How a block routes, and how its weights and the entries of its configuration are called."""

    router: str  # a name in `ROUTERS`
    logits: str  # the router's weight
    hidden: str  # configuration: width of an expert
    renormalize: bool | None = None  # whether the k weights sum to 1; None: the configuration says
    bias: str | None = None  # the bias on the choice
    shared: str | None = None  # the expert of every token ...
    shared_width: tuple[str, ...] = ()  # ... configuration: its width, the product of these ...
    shared_gate: str | None = None  # ... and the weight of its gate


KINDS: dict[str, Kind] = {
    "mixtral": Kind("softmax_top_k", "gate.weight", "intermediate_size", renormalize=True),
    "olmoe": Kind("softmax_top_k", "gate.weight", "intermediate_size"),
    "qwen3_moe": Kind("softmax_top_k", "gate.weight", "moe_intermediate_size"),
    "qwen2_moe": Kind(
        *("softmax_top_k", "gate.weight", "moe_intermediate_size"),
        shared="shared_expert",
        shared_width=("shared_expert_intermediate_size",),
        shared_gate="shared_expert_gate.weight",
    ),
    "granitemoe": Kind("top_k_softmax", "router.weight", "intermediate_size", renormalize=True),
    "deepseek_v3": Kind(
        *("sigmoid", "gate.weight", "moe_intermediate_size"),
        bias="gate.e_score_correction_bias",
        shared="shared_experts",
        shared_width=("moe_intermediate_size", "n_shared_experts"),
    ),
    "switch": Kind("switch", "router.classifier.weight", "d_ff", renormalize=False),
}

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
}


class SlotsMoE(SparseMoE):
    """A sparse layer whose experts have `slots` slots in every group, however long, and drop under every dispatch."""

    def __init__(self, *args: Any, slots: int, **options: Any):
        super().__init__(*args, **options)
        self.slots = slots

    def capacity(self, tokens: int, train: bool = False) -> int:
        """The number of slots; more than `tokens` would stay empty."""
        return min(tokens, self.slots)


class OneOfSoftmax(TopKSoftmax):
    """The best expert, weighted by 1."""

    name = None


class OneOfSigmoid(SigmoidTopK):
    """The expert with the best sigmoid + bias, weighted by the scale alone."""

    name = None

    def choose(self, x, context):
        chosen = super().choose(x, context)
        return chosen._replace(weights=jax.nn.softmax(chosen.weights, axis=-1) * self.options.weight_scale)


def from_huggingface(kind: str, weights: Weights, config: Config, **layer_options: Any) -> SparseMoE:
    """The layer that computes what Hugging Face's block does.

    Args:
      kind: a name in `KINDS`.
      weights: the block's state dict. Dtypes stay as they are, but that JAX by itself makes float64 float32.
      config: the model's configuration, by Hugging Face's names.
      layer_options: of `SparseMoE`. Unless they say otherwise the dispatch is "grouped" and nothing is dropped; Switch
        drops what exceeds the `expert_capacity` of its configuration in a sequence, one group of the layer's input.

    Raises ValueError, in one sentence, for an unknown kind, an incomplete configuration, and weights that are missing,
    unknown or misshapen.
    """
    block = _kind(kind)
    layer = jax.eval_shape(lambda: _build(kind, block, config, layer_options))
    places = _places(block, layer.num_experts)
    shapes = {name: shape for place in places for name, shape in place.shapes(layer).items()}
    _check_names("weights", set(weights), set(shapes), kind)
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} has the shape {weights[name].shape}; the configuration makes it {shape}.")
    for place in places:
        place.of(layer).set_value(jnp.array(place.join([weights[name] for name in place.names])))
    return layer


def to_huggingface(kind: str, layer: SparseMoE) -> dict[str, np.ndarray]:
    """The layer's weights by the names and in the shapes of Hugging Face's block.

    Raises ValueError, in one sentence, for an unknown kind and a layer whose parameters are not the block's.
    """
    places = _places(_kind(kind), layer.num_experts)
    have = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(layer))}
    _check_names("layer's parameters", have, {place.path for place in places}, kind)
    return {name: part for place in places for name, part in place.split(place.of(layer)[...]).items()}


class Place(NamedTuple):
    """One array of ours, and the arrays of theirs that it is made of, transposed: rows of one matrix, or experts."""

    path: str
    names: tuple[str, ...]
    one_an_expert: bool = False

    def of(self, layer: SparseMoE) -> nnx.Variable:
        """The array's variable in the layer."""
        return attrgetter(self.path)(layer)

    def shapes(self, layer: SparseMoE) -> dict[str, tuple[int, ...]]:
        """The shape of each of their arrays."""
        ours = self.of(layer).shape
        theirs = (*ours[:-2], *ours[:-3:-1])  # the last two swapped
        one = theirs[1:] if self.one_an_expert else (theirs[0] // len(self.names), *theirs[1:])
        return dict.fromkeys(self.names, one)

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Our array."""
        if len(parts) == 1 and not self.one_an_expert:
            return _transposed(parts[0])  # without a copy: the experts of a large model are gigabytes
        return _transposed(np.stack(parts) if self.one_an_expert else np.concatenate(parts))

    def split(self, array: jax.Array) -> dict[str, np.ndarray]:
        """Their arrays."""
        theirs = _transposed(np.asarray(array))
        parts = theirs if self.one_an_expert else np.split(theirs, len(self.names))
        return {name: np.array(part, order="C") for name, part in zip(self.names, parts, strict=True)}


def _transposed(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 1 else array.swapaxes(-1, -2)


def _places(block: Kind, num_experts: int) -> list[Place]:
    places = [Place("router.kernel", (block.logits,))]
    if block.bias:
        places += [Place("router.bias", (block.bias,))]
    if block.router == "switch":
        for ours, theirs in (("up", "wi"), ("down", "wo")):
            names = tuple(f"experts.expert_{e}.{theirs}.weight" for e in range(num_experts))
            places += [Place(f"experts.{ours}.kernel", names, one_an_expert=True)]
    else:
        places += [Place("experts.gate_up.kernel", ("experts.gate_up_proj",))]
        places += [Place("experts.down.kernel", ("experts.down_proj",))]
    if block.shared:
        halves = (f"{block.shared}.gate_proj.weight", f"{block.shared}.up_proj.weight")
        places += [Place("shared.gate_up.kernel", halves)]
        places += [Place("shared.down.kernel", (f"{block.shared}.down_proj.weight",))]
    if block.shared_gate:
        places += [Place("shared_gate.kernel", (block.shared_gate,))]
    return places


def _build(kind: str, block: Kind, config: Config, layer_options: dict[str, Any]) -> SparseMoE:
    read = partial(_read, kind, config)
    d, h = read("hidden_size", "d_model"), read(block.hidden)
    num_experts = read("num_local_experts", "num_experts", "n_routed_experts")
    activation = read("hidden_act", "dense_act_fn")
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {activation!r}; the names are {', '.join(ACTIVATIONS)}.")
    activation = ACTIVATIONS[activation]
    free = {"dispatch": "grouped", "capacity_factor": None, "eval_capacity_factor": None}
    build = partial(SparseMoE, d, num_experts, rngs=nnx.Rngs(0), **free | layer_options)

    if block.router == "switch":
        if not {"capacity_factor", "eval_capacity_factor"} & layer_options.keys():
            build = partial(SlotsMoE, *build.args, slots=read("expert_capacity"), **build.keywords)
        return build(
            lambda rngs: MLP(d, h, activation=activation, use_bias=False, rngs=rngs),
            k=1,
            router="switch",
        )

    k = read("num_experts_per_tok")
    renormalize = read("norm_topk_prob") if block.renormalize is None else block.renormalize
    options = RouterOptions(renormalize=renormalize)
    if block.router == "sigmoid":
        options = RouterOptions(
            renormalize=renormalize,
            expert_groups=read("n_group"),
            chosen_groups=read("topk_group"),
            weight_scale=float(read("routed_scaling_factor")),
        )
    make_shared = None
    if block.shared:
        width = math.prod(read(name) for name in block.shared_width)

        def make_shared(rngs):
            return GLU(d, width, activation=activation, rngs=rngs)

    layer = build(
        lambda rngs: GLU(d, h, activation=activation, rngs=rngs),
        k=k,
        router="softmax_top_k" if k == 1 and block.router == "top_k_softmax" else block.router,
        options=options,
        make_shared=make_shared,
        shared_gate=block.shared_gate is not None,
    )
    if k == 1 and renormalize:
        # The block's one weight is constant then. `SparseMoE` has no such router, rightly: it gets no gradient.
        router = OneOfSigmoid if block.router == "sigmoid" else OneOfSoftmax
        layer.router = router(d, num_experts, 1, options, rngs=nnx.Rngs(0))
    return layer


def _kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; the names are {', '.join(KINDS)}.")
    return KINDS[kind]


def _read(kind: str, config: Config, *names: str) -> Any:
    """The entry by the first of its names that the configuration has: not all models call it the same."""
    for name in names:
        if name in config:
            return config[name]
    raise ValueError(f"config has no {' or '.join(map(repr, names))}, which a {kind} block needs.")


def _check_names(what: str, have: set[str], want: set[str], kind: str) -> None:
    if missing := want - have:
        raise ValueError(f"the {what} have no {_listed(missing)}, which a {kind} block needs.")
    if unknown := have - want:
        raise ValueError(f"the {what} have {_listed(unknown)}, for which a {kind} block has no place.")


def _listed(names: set[str], most: int = 6) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
