"""A sparse router: the learnt part of a routing, a thin Flax module around a pure function of `moejax.routing`.

It is called with tokens and a capacity and returns a routing with slots:

    logits  = router.logits(x)             float32 (or float64) whatever the experts compute in
    routing = router.choose(x, context)    each token's experts and weights, and the probabilities
    routing = assign(routing, capacity)    which token sits in which slot; who was dropped

A router of one's own says how it chooses and, if it has options, declares them as attributes:

    class Sharp(Router):
        '''The k best of sharper logits.

        Args:
          sharpness: factor on the logits.
        '''

        sharpness: Positive = 2.0

        def choose(self, x, context):
            return routing.softmax_top_k(self.sharpness * self.logits(x, context), self.k, given=context.given)

    SparseMoE(d, num_experts, make_expert, router=Sharp, sharpness=3.0, rngs=rngs)

Axis letters: g groups, t tokens of a group, e experts, k choices, c slots, d model width.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from moejax import routing
from moejax.options import Count, Needs, Share, Width, arguments_of, checked, no_option, options_of, valid
from moejax.randomness import require_rngs
from moejax.routing import SparseRouting, TopKRouting, ZeroComputation
from moejax.widening import widened

Initializer = Callable[..., Array]

small: Initializer = nnx.initializers.normal(stddev=0.02)


class Context(NamedTuple):
    """What a choice may look at beside the tokens."""

    train: bool = False
    key: Key[Array, ""] | None = None  # for noise; None: no noise, which is only right at evaluation
    mask: Bool[Array, "g t"] | None = None  # False: padding
    ids: Int[Array, "g t"] | None = None  # what a hash router hashes
    given: Int[Array, "g t k"] | None = None  # experts to weigh in place of a choice
    zero_computation: ZeroComputation | None = None  # which of the experts compute nothing, the last ones
    starts: Bool[Array, "g t"] | None = None  # True where a sequence begins


NO_CONTEXT = Context()


class RouterState(nnx.Variable):
    """What a router changes by itself after each step, outside gradient descent."""


class Router(nnx.Module):
    """The base of all sparse routers, with linear logits; a subclass says how it chooses.

    Args:
      jitter: in training, multiply the router's input by a random factor within 1 ± this.
      priority: who gets a slot first: first choices in token order, then second choices, ...; or the same in order of
        each token's highest weight (batch-prioritised, V-MoE).

    `options` are those that the class declares. Raises ValueError, in one sentence, for arguments that make no sense,
    and in training for noise without a key.
    """

    jitter: Share = 0.0
    priority: Annotated[Literal["position", "weight"], Needs("dispatch", ("einsum", "gather"))] = "position"

    noisy: ClassVar[bool] = False  # whether it draws in training, jitter aside
    token_choice: ClassVar[bool] = True  # whether tokens choose experts
    aims_at_k: ClassVar[bool] = False  # whether k is what training brings the mean to, and evaluation does not know it
    evens_load: ClassVar[bool] = False  # whether by itself, without a loss, it gives all experts the same load
    initializer: ClassVar[Initializer] = staticmethod(small)  # of the kernel

    @checked
    def __init__(
        self,
        d: Width,
        num_experts: Count,
        k: Count,
        *,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        require_rngs(rngs)
        declared = arguments_of(type(self))
        for name in options:
            if name not in declared:
                raise ValueError(no_option(name, type(self).__name__, sorted(options_of(type(self)))))
        self.d, self.num_experts, self.k = d, num_experts, k
        sizes = {"num_experts": num_experts, "k": k}
        for name, value in valid(declared, sizes | options, self.contradictions).items():
            setattr(self, name, value)
        self.build(d, kernel_init or self.initializer, rngs)

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        """What the options must not be together."""
        if o.k > (experts := all_experts(o)):
            yield f"`k` is {o.k}, but there are only {experts} experts (`num_experts`)."

    @property
    def weights_sum_to_1(self) -> bool:
        """Whether the weights of every token do: here where it has all experts, by a softmax of them."""
        return self.k == self.num_experts

    @property
    def most_experts(self) -> int:
        """How many experts a token can have at most, and so how many a routing names for each."""
        return self.k

    def build(self, d: int, kernel_init: Initializer, rngs: nnx.Rngs) -> None:
        """Make the parameters: here those of linear logits."""
        self.kernel = nnx.Param(kernel_init(rngs.params(), (d, self.num_experts)))

    def __call__(
        self, x: Float[Array, "g t d"], capacity: int | None = None, context: Context = NO_CONTEXT
    ) -> SparseRouting:
        """Route the tokens. A capacity of None leaves them without slots: nothing is dropped."""
        if context.train and context.key is None and (self.noisy or self.jitter):
            raise ValueError(
                f"key is None, but the router {type(self).__name__} draws noise in training; pass"
                " key=jax.random.key(…), another one in every step."
            )
        if context.given is not None and not self.token_choice:
            raise ValueError(
                f"given holds experts for each token, but with {type(self).__name__} experts choose tokens; use a"
                " router whose tokens choose."
            )
        return self.route(x, capacity, context)

    def route(self, x: Float[Array, "g t d"], capacity: int | None, context: Context) -> SparseRouting:
        """Choose, leave out padding, then give slots."""
        chosen = self.choose(x, context)
        if context.given is not None and chosen.experts is not context.given:
            raise ValueError(
                f"given holds experts, but {type(self).__name__} chooses others; its `choose` must pass"
                " given=context.given on to the function of moejax.routing that it calls."
            )
        chosen = routing.mask_tokens(chosen, context.mask)._replace(starts=context.starts)
        if context.given is not None:
            chosen = routing.refuse_impossible(chosen)
        priority = chosen.weights.max(-1) if self.priority == "weight" else None
        chosen = routing.with_zero_computation(chosen, context.zero_computation)
        return chosen if capacity is None else routing.assign(chosen, capacity, priority)

    def choose(self, x: Float[Array, "g t d"], context: Context) -> TopKRouting:
        """Each token's experts and weights, without slots."""
        raise NotImplementedError

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """What the router changes by itself after a training step: nothing, for most.

        `load`: how often a token of the step chose each expert on average, so that the sum is that of its experts;
        `progress`: the share of the training done, 0 to 1.
        """

    def logits(self, x: Float[Array, "g t d"], context: Context) -> Float[Array, "g t e"]:
        """x · kernel, in float32 at least."""
        x = widened(x)
        if self.jitter and context.key is not None:
            x = routing.jitter(jax.random.fold_in(context.key, 1), x, self.jitter)
        return linear(x, self.kernel)


def all_experts(o: Any) -> int:
    """How many experts a router chooses among: in a layer's options, those that compute nothing are counted apart."""
    return o.num_experts + ZeroComputation.of(o).total


def linear(x: Float[Array, "g t d"], kernel: nnx.Param) -> Float[Array, "g t e"]:
    """x · kernel in full precision: a GPU's default may round to fewer bits, and a choice can hang on the last one."""
    return jnp.matmul(x, kernel[...].astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
