"""Routers: the learnt part of a routing, thin Flax modules around the pure functions of `moejax.routing`.

A sparse router is called with tokens and a capacity and returns a routing with slots:

    logits  = router.logits(x)             float32 (or float64) whatever the experts compute in
    routing = router.choose(x, context)    each token's experts and weights, and the probabilities
    routing = assign(routing, capacity)    which token sits in which slot; who was dropped

`ROUTERS` names them all. Axis letters: g groups, t tokens of a group, e experts, k choices, c slots, d model width.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from moejax import routing
from moejax.arguments import number, option_problems, refuse, router_problems, truth, whole
from moejax.makers import MakeExpert, made
from moejax.routing import DenseRouting, SoftRouting, SparseRouting, TopKRouting

_init = nnx.initializers.normal(stddev=0.02)


@dataclass(frozen=True)
class RouterOptions:
    """What a router may be told beside its name; each looks only at what concerns it.

    Raises ValueError, in one sentence, for a value that makes no sense.
    """

    renormalize: bool = True  # scale the k weights to sum to 1; one weight alone (k = 1) stays as it is
    expert_groups: int = 1  # group-limited choice: runs of experts ...
    chosen_groups: int = 1  # ... of which a token may use so many
    jitter: float = 0.0  # training: the router's input times U(1 ± jitter)
    priority: Literal["position", "weight"] = "position"  # who gets a slot first, within first choices, second, ...
    weight_scale: float = 1.0  # sigmoid: factor on the weights
    bias_rate: float = 1e-3  # sigmoid: how far a step moves the bias
    raw_weights: bool = False  # uniform: the weights are the noisy logits, not probabilities
    eval_noise: bool = False  # uniform: noise at evaluation too, drawn once for all

    def __post_init__(self):
        refuse(option_problems(**vars(self)))


DEFAULT_OPTIONS = RouterOptions()


class Context(NamedTuple):
    """What a choice may look at beside the tokens."""

    train: bool = False
    key: Key[Array, ""] | None = None  # for noise; None: no noise, which is only right at evaluation
    mask: Bool[Array, "g t"] | None = None  # False: padding
    ids: Int[Array, "g t"] | None = None  # what a hash router hashes


NO_CONTEXT = Context()


class RouterState(nnx.Variable):
    """What a router changes by itself after each step, outside gradient descent."""


class Router(nnx.Module):
    """A sparse router: subclasses say how they choose.

    Raises ValueError, in one sentence, for arguments that make no sense, and in training for noise without a key.
    """

    name: str | None = None  # in `ROUTERS`
    noisy = False  # whether it draws in training, jitter aside

    def __init__(self, d: int, num_experts: int, k: int, options: RouterOptions = DEFAULT_OPTIONS, *, rngs: nnx.Rngs):
        refuse(whole("d", d))
        groups = {"expert_groups": options.expert_groups, "chosen_groups": options.chosen_groups}
        refuse(router_problems(num_experts=num_experts, k=k, router=self.name, **groups))
        self.num_experts, self.k, self.options = num_experts, k, options
        self.build(d, rngs)

    def build(self, d: int, rngs: nnx.Rngs) -> None:
        """Make the parameters: here those of linear logits."""
        self.kernel = nnx.Param(_init(rngs.params(), (d, self.num_experts)))

    def __call__(
        self, x: Float[Array, "g t d"], capacity: int | None = None, context: Context = NO_CONTEXT
    ) -> SparseRouting:
        """Route the tokens. A capacity of None leaves them without slots: nothing is dropped."""
        if context.train and context.key is None and (self.noisy or self.options.jitter):
            raise ValueError(
                f"key is None, but the router {self.name or type(self).__name__} draws noise in training; pass"
                " key=jax.random.key(…), another one in every step."
            )
        return self.route(x, capacity, context)

    def route(self, x: Float[Array, "g t d"], capacity: int | None, context: Context) -> SparseRouting:
        """Choose, leave out padding, then give slots."""
        chosen = routing.mask_tokens(self.choose(x, context), context.mask)
        if capacity is None:
            return chosen
        return routing.assign(chosen, capacity, chosen.weights[..., 0] if self.options.priority == "weight" else None)

    def choose(self, x: Float[Array, "g t d"], context: Context) -> TopKRouting:
        """Each token's experts and weights, without slots."""
        raise NotImplementedError

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """What the router changes by itself after a training step: nothing, for most.

        `load`: each expert's share of the step's choices; `progress`: the share of the training done, 0 to 1.
        """

    def logits(self, x: Float[Array, "g t d"], context: Context) -> Float[Array, "g t e"]:
        """x · kernel, in float32 at least."""
        x = at_least_float32(x)
        if self.options.jitter and context.key is not None:
            x = routing.jitter(jax.random.fold_in(context.key, 1), x, self.options.jitter)
        return linear(x, self.kernel)


class SoftmaxTopK(Router):
    """Softmax over all experts, then the k best (GShard, Mixtral, OLMoE, Qwen-MoE)."""

    name = "softmax_top_k"

    def choose(self, x, context):
        o = self.options
        return routing.softmax_top_k(
            self.logits(x, context),
            self.k,
            renormalize=o.renormalize,
            expert_groups=o.expert_groups,
            chosen_groups=o.chosen_groups,
        )


class TopKSoftmax(Router):
    """The k best logits, then a softmax of those alone (GraniteMoe)."""

    name = "top_k_softmax"

    def choose(self, x, context):
        return routing.top_k_softmax(self.logits(x, context), self.k)


class Switch(Router):
    """The one most probable expert, weighted by its probability (Switch)."""

    name = "switch"

    def choose(self, x, context):
        return routing.switch(self.logits(x, context))


class NoisyTopK(Router):
    """Normal noise of learnt spread on the logits, the k best, a softmax of those (Shazeer et al. 2017)."""

    name = "noisy_top_k"
    noisy = True

    def build(self, d, rngs):
        # Zeros, as in the paper: at the start the noise alone decides, and all experts get their share.
        self.kernel = nnx.Param(jnp.zeros((d, self.num_experts)))
        self.spread = nnx.Param(jnp.zeros((d, self.num_experts)))

    def choose(self, x, context):
        spread = linear(at_least_float32(x), self.spread)
        return routing.noisy_top_k(self.logits(x, context), spread, self.k, context.key)


class VmoeTopK(Router):
    """Normal noise of deviation 1/E on the logits, softmax, the k best, not renormalised (V-MoE)."""

    name = "vmoe"
    noisy = True

    def choose(self, x, context):
        return routing.vmoe_top_k(self.logits(x, context), self.k, context.key)


class UniformTopK(Router):
    """Uniform noise from 0 to 1 on the logits, the k best, weighted by probability (Chen et al. 2022)."""

    name = "uniform"
    noisy = True

    def build(self, d, rngs):
        self.kernel = nnx.Param(jnp.zeros((d, self.num_experts)))  # the noise alone decides at the start

    def choose(self, x, context):
        o, key = self.options, context.key
        if key is None and o.eval_noise:
            key = jax.random.key(0)
        return routing.uniform_top_k(self.logits(x, context), self.k, key, raw=o.raw_weights)


class SigmoidTopK(Router):
    """Each expert scored by itself; a bias on the choice keeps the load even (DeepSeek-V3)."""

    name = "sigmoid"

    def build(self, d, rngs):
        super().build(d, rngs)
        self.bias = RouterState(jnp.zeros(self.num_experts))

    def choose(self, x, context):
        o = self.options
        return routing.sigmoid_top_k(
            self.logits(x, context),
            self.k,
            bias=jax.lax.stop_gradient(self.bias[...]),
            renormalize=o.renormalize,
            scale=o.weight_scale,
            expert_groups=o.expert_groups,
            chosen_groups=o.chosen_groups,
        )

    def after_step(self, load, progress):
        """Move the bias against the step's load."""
        self.bias[...] = routing.update_bias(self.bias[...], load, self.options.bias_rate)


class SinkhornTopK(Router):
    """In training the k best of a balanced plan, at evaluation of the logits; weights by softmax (BASE, S-BASE)."""

    name = "sinkhorn"

    def choose(self, x, context):
        return routing.sinkhorn_top_k(self.logits(x, context), self.k, context.mask, balance=context.train)


class ExpertChoice(Router):
    """Each expert takes the tokens that suit it best (Zhou et al. 2022)."""

    name = "expert_choice"

    def route(self, x, capacity, context):
        """Each expert takes `capacity` tokens of a group."""
        if capacity is None:
            raise ValueError("capacity is None, but with expert choice it says how many tokens an expert takes.")
        return routing.expert_choice(self.logits(x, context), capacity, context.mask)


class Hash(Router):
    """Experts by a fixed random table of the token's id: nothing is learnt (Hash layers)."""

    name = "hash"

    def build(self, d, rngs):
        pass

    def choose(self, x, context):
        g, t, _ = x.shape
        ids = jnp.broadcast_to(jnp.arange(t), (g, t)) if context.ids is None else context.ids
        return routing.hash_routing(ids, self.num_experts, self.k)


class Random(Router):
    """Experts by lot, drawn anew in every training step and once for all at evaluation: the baseline."""

    name = "random"
    noisy = True

    def build(self, d, rngs):
        pass

    def choose(self, x, context):
        key = jax.random.key(0) if context.key is None else context.key
        return routing.random_routing(key, *x.shape[:2], self.num_experts, self.k)


_KINDS = (
    *(SoftmaxTopK, TopKSoftmax, Switch, NoisyTopK, VmoeTopK, UniformTopK),
    *(SigmoidTopK, SinkhornTopK, ExpertChoice, Hash, Random),
)
ROUTERS: dict[str, type[Router]] = {kind.name: kind for kind in _KINDS}


class DenseRouter(nnx.Module):
    """Softmax over all experts at a temperature that is fixed, learnt, or annealed from one value to another.

    The logits are linear, or those of the network that `make_gate` makes. Raises ValueError, in one sentence, for
    arguments that make no sense.
    """

    def __init__(
        self,
        d: int,
        num_experts: int,
        *,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        final_temperature: float | None = None,
        make_gate: MakeExpert | None = None,
        rngs: nnx.Rngs,
    ):
        refuse(whole("d", d) + whole("num_experts", num_experts))
        refuse(number("temperature", temperature, above=0.0) + truth("learn_temperature", learn_temperature))
        if final_temperature is not None:
            refuse(number("final_temperature", final_temperature, above=0.0))
            if learn_temperature:
                raise ValueError(
                    f"final_temperature is {final_temperature}, but learn_temperature is True; a temperature is either"
                    " annealed or learnt."
                )
        self.kernel = nnx.Param(_init(rngs.params(), (d, num_experts))) if make_gate is None else None
        self.gate = None if make_gate is None else made(make_gate, rngs, "make_gate")
        self.temperature, self.final_temperature = temperature, final_temperature
        # Kept as a logarithm, so that learning cannot take it below 0.
        log = jnp.log(jnp.float32(temperature))
        annealed = None if final_temperature is None else RouterState(log)
        self.log_temperature = nnx.Param(log) if learn_temperature else annealed

    def __call__(
        self,
        x: Float[Array, "g t d"],
        mask: Bool[Array, "g t"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
        assigned: Int[Array, "g t"] | None = None,
    ) -> DenseRouting:
        """Route the tokens; `key`: for a gate that draws; `assigned`: guided, with sigmoid(temperature) the share of
        the learnt probabilities in the weights.
        """
        temperature = self.temperature
        if self.log_temperature is not None:
            log = self.log_temperature[...]
            fixed = isinstance(self.log_temperature, RouterState)
            temperature = jnp.exp(jax.lax.stop_gradient(log) if fixed else log)
        decision = routing.dense_routing(self.logits(x, key), temperature, mask)
        if assigned is None:
            return decision
        share = jax.nn.sigmoid(jnp.float32(temperature))
        guided = routing.guided_weights(decision.probs, assigned, share)
        return decision._replace(assigned=assigned, guided=guided)

    def logits(self, x: Float[Array, "g t d"], key: Key[Array, ""] | None) -> Float[Array, "g t e"]:
        """In float32 at least."""
        if self.gate is None:
            return linear(at_least_float32(x), self.kernel)
        return at_least_float32(self.gate(x) if key is None else self.gate(x, key=key))

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """Anneal the temperature, if it has somewhere to go."""
        if self.final_temperature is not None:
            self.log_temperature[...] = jnp.log(routing.anneal(self.temperature, self.final_temperature, progress))


class SoftRouter(nnx.Module):
    """Slots by two softmaxes (Puigcerver et al. 2023, algorithm 2): tokens and slot parameters of unit length, with one
    learnt scale. It begins at `scale`: 1 in the paper, which leaves both softmaxes nearly even until it has grown; a
    larger one routes from the start.
    """

    def __init__(self, d: int, num_experts: int, slots: int, *, scale: float = 1.0, rngs: nnx.Rngs):
        refuse(whole("d", d) + whole("num_experts", num_experts) + whole("slots", slots))
        refuse(number("scale", scale, above=0.0))
        lecun = nnx.initializers.lecun_normal()(rngs.params(), (d, num_experts * slots))
        self.kernel = nnx.Param(lecun.reshape(d, num_experts, slots))
        self.scale = nnx.Param(jnp.float32(scale))

    def __call__(self, x: Float[Array, "g t d"], mask: Bool[Array, "g t"] | None = None) -> SoftRouting:
        tokens = _unit_length(at_least_float32(x), axis=-1)
        slots = (self.scale[...] * _unit_length(at_least_float32(self.kernel[...]), axis=0)).astype(tokens.dtype)
        logits = jnp.einsum("gtd,dec->gtec", tokens, slots, precision=jax.lax.Precision.HIGHEST)
        return routing.soft_routing(logits, mask)

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """Nothing: all it has is learnt."""


def at_least_float32(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Narrower numbers as float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def linear(x: Float[Array, "g t d"], kernel: nnx.Param) -> Float[Array, "g t e"]:
    """x · kernel in full precision (a GPU's default may round to fewer bits, and a choice can hang on the last one)."""
    return jnp.matmul(x, kernel[...].astype(x.dtype), precision=jax.lax.Precision.HIGHEST)


def _unit_length(x: Array, axis: int) -> Array:
    # eps inside the root: blank image patches are zero rows, and the norm's gradient there would be NaN.
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-6)
