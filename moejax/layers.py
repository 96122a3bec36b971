"""The layers: a router, a dispatch, stacked experts, a combine. Each returns its output and its routing.

Tokens are arrays [*batch, t, d] of JAX or NumPy, and the output is [*batch, t, d2]. A layer flattens `batch` to g
groups of t tokens (g = 1 for [t, d]); its routing has the axes [g, t, ...]. `mask`, `ids`, `router_input` and
`assigned` have one entry for each token, or broadcast to that. Where `mask` is False a token is padding: it is replaced
by zeros on entry, takes no slot, counts in no loss, and its output is zeros. The routing of an input without tokens is
that of one token of padding.

`dtype` is the type that experts compute in, as in Flax's layers: tokens and the experts' parameters are cast to it. So
the output has it, unless an expert computes in another. None: JAX's promotion decides. Routers get the tokens before
that cast, and compute in float32 or wider.

On a mesh of devices, `mesh_axes` names the axes that tokens and experts are sharded over.

In training, routers with noise and experts that draw random numbers need a `key`, a new one in every step. Or pass
`rngs`, whose stream `dropout` gives the key, as for `nnx.Dropout`; under `jax.jit`, return `rngs` too, or its counter
does not advance.

Axis letters: g groups, t tokens of a group, e experts, c slots of an expert, d model width.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import Field

from moejax.dispatch import (
    combine_dense,
    combine_slots,
    default_group_size,
    dispatch_tokens,
    einsum_dispatch,
    gather_dispatch,
    grouped_over_mesh,
)
from moejax.experts import (
    add_shared,
    apply_experts,
    apply_experts_to_all,
    apply_experts_to_groups,
    can_be_grouped,
    few_chosen,
    hidden_width,
    stack_experts,
)
from moejax.inputs import AnyArray, ComputeDtype, prepare
from moejax.linear_maps import cast
from moejax.makers import MakeExpert, made
from moejax.multi_gate import MultiGateMoE
from moejax.options import (
    Choice,
    Count,
    Needs,
    Positive,
    PositiveOrNone,
    Width,
    arguments_of,
    checked,
    conflicts,
    in_words,
    no_option,
    options_of,
)
from moejax.randomness import draw_key, key_for
from moejax.routers import ROUTERS, Context, DenseRouter, Router, SoftRouter
from moejax.routing import DenseRouting, SoftRouting, SparseRouting, ZeroComputation, computing_part, expert_capacity
from moejax.sharding import DEFAULT_AXES, MeshAxes, over_mesh
from moejax.zero_computation import Tau, ZeroComputationExperts, contradictions

SLOT_DISPATCHES = {"einsum": einsum_dispatch, "gather": gather_dispatch}
DISPATCHES = {**SLOT_DISPATCHES, "grouped": grouped_over_mesh}

CapacityFactor = Annotated[float | None, Field(gt=0, le=2**16), Needs("dispatch", ("einsum", "gather"))]


class DenseMoE(nnx.Module):
    """All experts see all tokens; the router weighs their outputs (Jacobs et al. 1991).

    Args:
      temperature: the router's logits are divided by this.
      learn_temperature: learn the temperature, from `temperature` on.
      final_temperature: anneal the temperature to this by the end of training; none keeps it.
      make_gate: makes the network that computes the router's logits [g, t, e]; None: a linear map does.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        make_expert: MakeExpert,
        *,
        temperature: Positive = 1.0,
        learn_temperature: bool = False,
        final_temperature: PositiveOrNone = None,
        make_gate: MakeExpert | None = None,
        dtype: ComputeDtype = None,
        mesh_axes: MeshAxes = DEFAULT_AXES,
        rngs: nnx.Rngs,
    ):
        self.router = DenseRouter(
            d,
            num_experts,
            temperature=temperature,
            learn_temperature=learn_temperature,
            final_temperature=final_temperature,
            make_gate=make_gate,
            rngs=rngs,
        )
        self.experts, self.d = stack_experts(make_expert, num_experts, rngs, mesh_axes), d
        self.mesh_axes, self.dtype = mesh_axes, dtype

    contradictions = staticmethod(DenseRouter.contradictions)

    @draw_key
    @over_mesh
    def __call__(
        self,
        x: Float[AnyArray, "*batch t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,  # gives `key`: see draw_key
        mask: Bool[AnyArray, "*#batch #t"] | None = None,
        router_input: Float[AnyArray, "*#batch #t r"] | None = None,
        assigned: Int[AnyArray, "*#batch #t"] | None = None,
    ) -> tuple[Float[Array, "*batch t d2"], DenseRouting]:
        """Apply the layer.

        Args:
          router_input: the router's input, d numbers a token; None: the tokens themselves.
          assigned: in guided training, the expert that each token is assigned to.
        """
        inputs, restore = prepare(x, self.d, dtype=self.dtype, mask=mask, router_input=router_input, assigned=assigned)
        routing = self.router(
            inputs.router_x,
            inputs.mask,
            key=key_for(self.router.gate, key, train, stream=3),
            assigned=inputs.assigned,
        )
        y = apply_experts_to_all(
            cast(self.experts, self.dtype),
            inputs.x,
            key_for(self.experts, key, train),
            num_experts=self.router.num_experts,
        )
        return restore(combine_dense(routing.gates, y)), routing


class SparseMoE(nnx.Module):
    """Each token goes to its k best experts while they have slots left (Shazeer et al. 2017; GShard; Switch).

    Args:
      k: experts per token; of expert choice and relu, their mean.
      router: how experts are chosen.
      dispatch: how tokens get to their experts; the result is the same, the speed is not. grouped drops nothing.
      capacity_factor: slots per expert in training, as a factor: ceil(factor · k · tokens / num_experts); 1 fits a
        perfectly balanced choice exactly; none: nothing is dropped.
      eval_capacity_factor: the same at evaluation.
      group_size: tokens that compete for slots together, consecutive ones of the whole batch; none: so many that einsum
        dispatch costs a quarter of the experts' FLOPs (`default_group_size`); 0: the groups that they come in.
      make_shared: makes a shared expert, which every token goes to beside its k (DeepSeek, Qwen2-MoE).
      zero_experts: experts that add nothing, beside the num_experts (MoE++).
      copy_experts: experts that add the token itself (MoE++).
      constant_experts: experts that add a mixture of the token and a learnt vector (MoE++).
      null_experts: experts that add nothing and leave their weight to the token's others, balanced together (AdaMoE).
      zero_computation_tau: how many times the choices of an expert without computation one that computes is meant to
        get, in the balance loss and in slots; MoE++: 0.75.
      router_options: options that the router declares, such as `renormalize`.

    `router` is a name in `ROUTERS`, a subclass of `Router`, or an instance of one. Padding fills up the last group; an
    input of fewer tokens is one smaller group; groups do not depend on the number of devices. `shared_gate` multiplies
    the shared expert's output by sigmoid(x · w) (Qwen2-MoE).

    Experts that compute nothing (`moejax.routing.zero_computation`) are the router's last ones, in the order of their
    options. They have no slots and drop nothing; the others have slots for the share of choices that they are meant to
    get.

    Raises ValueError, in one sentence, for arguments that make no sense.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        make_expert: MakeExpert,
        *,
        k: Count = 2,
        router: Annotated[str | type[Router] | Router, Choice(ROUTERS)] = "softmax_top_k",
        dispatch: Annotated[str, Choice(DISPATCHES)] = "einsum",
        capacity_factor: CapacityFactor = 1.25,
        eval_capacity_factor: CapacityFactor = 2.0,
        group_size: Annotated[int | None, Field(ge=0, le=2**24)] = None,
        make_shared: MakeExpert | None = None,
        shared_gate: bool = False,
        zero_experts: Annotated[int, Field(ge=0, le=2**16)] = 0,
        copy_experts: Annotated[int, Field(ge=0, le=2**16)] = 0,
        constant_experts: Annotated[int, Field(ge=0, le=2**16)] = 0,
        null_experts: Annotated[int, Field(ge=0, le=2**16)] = 0,
        zero_computation_tau: Tau = 1.0,
        dtype: ComputeDtype = None,
        mesh_axes: MeshAxes = DEFAULT_AXES,
        rngs: nnx.Rngs,
        **router_options: Any,
    ):
        if shared_gate and make_shared is None:
            raise ValueError("shared_gate is True, but make_shared is None, so that there is no output to multiply.")
        kinds = ZeroComputation(zero_experts, copy_experts, constant_experts, null_experts, zero_computation_tau)
        self.zero_computation = kinds if kinds.total else None
        self.router = _router(router, d, num_experts + kinds.total, k, router_options, rngs)
        _refuse_misfit(self.router, d, num_experts + kinds.total, k, dispatch)
        self.experts = stack_experts(make_expert, num_experts, rngs, mesh_axes)
        if dispatch == "grouped" and not can_be_grouped(self.experts):
            raise ValueError(
                f"dispatch is 'grouped', which needs experts whose call takes `linear` (as MLP and GLU do), not"
                f" {type(self.experts).__name__}; use 'gather'."
            )
        self.shared = None if make_shared is None else made(make_shared, rngs, "make_shared")
        self.shared_gate = nnx.Linear(d, 1, use_bias=False, rngs=rngs) if shared_gate else None
        adds = copy_experts or constant_experts
        self.zero_computation_experts = ZeroComputationExperts(kinds, d, rngs=rngs) if adds else None
        self.d, self.num_experts, self.k = d, num_experts, k
        self.mesh_axes, self.dtype = mesh_axes, dtype
        if group_size is None and (hidden := hidden_width(self.experts, d)):
            group_size = default_group_size(hidden)
        self.dispatch, self.group_size = dispatch, group_size or None
        self.capacity_factor, self.eval_capacity_factor = capacity_factor, eval_capacity_factor

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        """A sentence for each combination of options that cannot be."""
        router = ROUTERS.get(o.router, o.router) if isinstance(o.router, str) else o.router
        if o.dispatch == "grouped" and not router.token_choice:
            yield (
                "`dispatch` is grouped, which sorts tokens by the expert they chose; with `router` expert_choice use"
                " gather."
            )
        yield from contradictions(o, router)

    @draw_key
    @over_mesh
    def __call__(
        self,
        x: Float[AnyArray, "*batch t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,  # gives `key`: see draw_key
        mask: Bool[AnyArray, "*#batch #t"] | None = None,
        ids: Int[AnyArray, "*#batch #t"] | None = None,
        router_input: Float[AnyArray, "*#batch #t r"] | None = None,
        given: Int[AnyArray, "*#batch #t _k"] | None = None,
        starts: Bool[AnyArray, "*#batch #t"] | None = None,
    ) -> tuple[Float[Array, "*batch t d2"], SparseRouting]:
        """Apply the layer.

        Args:
          train: whether to use the capacity of training.
          key: for routers with noise and experts that draw random numbers, in training.
          mask: False where a token is padding: it takes no slot, counts nowhere and its output is zeros.
          ids: the numbers that a hash router hashes; None: the tokens' positions.
          router_input: the router's input, d numbers a token; None: the tokens themselves.
          given: the experts of each token, -1 in place of one, which the router weighs instead of choosing (`replay`):
            those of another call are `ungroup(routing.experts, x.shape[:-1])`.
          starts: True where a sequence begins, for sequences packed into rows; None: each row of `x` is one.

        Returns the output and the routing, in groups of `group_size` (`ungroup` undoes that).

        Raises ValueError, in one sentence, for arrays that do not fit, and for noise without a key.
        """
        inputs, restore = prepare(
            x,
            self.d,
            group_size=self.group_size,
            dtype=self.dtype,
            mask=mask,
            ids=ids,
            router_input=router_input,
            given=given,
            k=self.router.most_experts,
            starts=starts,
        )
        capacity = self.capacity(inputs.x.shape[1], train)
        context = Context(
            train,
            key if train else None,
            inputs.mask,
            inputs.ids,
            inputs.given,
            zero_computation=self.zero_computation,
            starts=inputs.starts,
        )
        routing = self.router(inputs.router_x, capacity, context)
        of_computing = routing if self.zero_computation is None else computing_part(routing)
        experts, expert_key = cast(self.experts, self.dtype), key_for(self.experts, key, train)
        if self.dispatch == "grouped" or few_chosen(experts, inputs.x, of_computing, expert_key):
            y = grouped_over_mesh(apply_experts_to_groups, experts, inputs.x, of_computing, expert_key)
        else:
            on_slots = partial(apply_experts, experts, key=expert_key)
            y = SLOT_DISPATCHES[self.dispatch](on_slots, inputs.x, of_computing, capacity)
        if self.zero_computation_experts is not None:
            y = self.zero_computation_experts(y, inputs.x, routing)
        if self.shared is not None:
            shared, shared_key = cast(self.shared, self.dtype), key_for(self.shared, key, train, stream=4)
            y = add_shared(y, shared, self.shared_gate, inputs.x, inputs.mask, shared_key)
        return restore(y), routing

    def capacity(self, tokens: int, train: bool = False) -> int | None:
        """Slots per expert in a group of `tokens`; None for the grouped dispatch, which has no slots.

        A group of fewer tokens than `group_size` has as many slots as a full one, but at most one for each token.
        """
        if self.dispatch == "grouped":
            return None
        factor = self.capacity_factor if train else self.eval_capacity_factor
        if factor is None:
            return tokens
        if self.zero_computation:
            factor *= self.zero_computation.computing_share(self.num_experts)
        return min(tokens, expert_capacity(self.group_size or tokens, self.num_experts, self.k, factor))


class SoftMoE(nnx.Module):
    """Experts see mixtures of tokens and tokens get mixtures of outputs: fully differentiable, nothing dropped.

    Puigcerver et al. 2023 ("From Sparse to Soft Mixtures of Experts"), algorithm 2.

    Args:
      slots: slots per expert.
      scale: where the learnt scale of the router's logits begins; 1 is the paper's, a larger one routes more sharply.
    """

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        make_expert: MakeExpert,
        *,
        slots: Count = 3,
        scale: Positive = 1.0,
        dtype: ComputeDtype = None,
        mesh_axes: MeshAxes = DEFAULT_AXES,
        rngs: nnx.Rngs,
    ):
        self.router = SoftRouter(d, num_experts, slots, scale=scale, rngs=rngs)
        self.experts, self.d = stack_experts(make_expert, num_experts, rngs, mesh_axes), d
        self.mesh_axes, self.dtype = mesh_axes, dtype

    @draw_key
    @over_mesh
    def __call__(
        self,
        x: Float[AnyArray, "*batch t d"],
        *,
        train: bool = False,
        key: Key[Array, ""] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,  # gives `key`: see draw_key
        mask: Bool[AnyArray, "*#batch #t"] | None = None,
        router_input: Float[AnyArray, "*#batch #t r"] | None = None,
    ) -> tuple[Float[Array, "*batch t d2"], SoftRouting]:
        """Apply the layer; `router_input`: the router's input, d numbers a token; None: the tokens themselves."""
        inputs, restore = prepare(x, self.d, dtype=self.dtype, mask=mask, router_input=router_input)
        routing = self.router(inputs.router_x, inputs.mask)
        slots = dispatch_tokens(routing.dispatch, inputs.x)
        y = apply_experts(cast(self.experts, self.dtype), slots, key_for(self.experts, key, train))
        return restore(combine_slots(routing.combine, y)), routing


LAYERS = {"dense": DenseMoE, "sparse": SparseMoE, "soft": SoftMoE, "multi_gate": MultiGateMoE}


def _router(
    router: str | type[Router] | Router, d: int, num_experts: int, k: int, options: dict[str, Any], rngs: nnx.Rngs
) -> Router:
    """The router itself, or a new one of the named kind."""
    if isinstance(router, Router):
        if options:
            raise ValueError(f"{', '.join(options)}: options of a router; give them to the one that is made already.")
        return router
    kind = ROUTERS[router] if isinstance(router, str) else router
    for name in set(options) - set(arguments_of(kind)):
        raise ValueError(no_option(name, kind.__name__, sorted(options_of(kind)), options_of(SparseMoE)))
    return kind(d, num_experts, k, rngs=rngs, **options)


def _refuse_misfit(router: Router, d: int, num_experts: int, k: int, dispatch: str) -> None:
    """Raise ValueError for a router of other sizes, or with an option that the dispatch leaves without effect."""
    for name, of_layer in (("d", d), ("num_experts", num_experts), ("k", k)):
        if (of_router := getattr(router, name)) != of_layer:
            raise ValueError(f"{name} of the layer is {of_layer}, but the router was made for {of_router}.")
    declared = {"dispatch": arguments_of(SparseMoE)["dispatch"], **options_of(type(router))}
    own = {name: getattr(router, name) for name in options_of(type(router)) if hasattr(router, name)}
    for sentence in conflicts(declared, {"dispatch": dispatch, **own}, own):
        raise ValueError(in_words(sentence))
