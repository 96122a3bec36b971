"""What is measured: MoE layers of one shape, with random parameters and tokens, as functions ready to call.

Axis letters: t tokens, d model width, h hidden width of an expert, e experts, k experts of a token.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from moejax.dispatch import default_group_size
from moejax.experts import MLP
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.metrics import dropped, load, max_violation


class Case(NamedTuple):
    """One row of a benchmark."""

    tokens: int
    d: int
    h: int
    experts: int
    k: int
    factor: float = 1.25  # capacity factor
    group: int | None = None  # tokens that compete for slots together; None: h / 4
    dtype: str = "float32"
    skew: float = 0.0  # 0: experts equally popular; else expert e with odds (e + 1)^-skew

    @property
    def group_size(self) -> int:
        """The group size that the einsum and gather dispatches use."""
        return min(default_group_size(self.h) if self.group is None else self.group, self.tokens)

    def __str__(self) -> str:
        return ", ".join(map(str, self[:5]))


def tokens(case: Case, seed: int = 0) -> tuple[Float[Array, "1 t d"], Float[Array, "1 t d"]]:
    """Normal tokens, whose first number is 1, and as many normal numbers as the gradient of a layer's output."""
    x, dy = jax.random.normal(jax.random.key(seed), (2, 1, case.tokens, case.d), case.dtype)
    return x.at[..., 0].set(1), dy


def as_taken(name: str, case: Case, *arrays: Float[Array, "1 t d"]) -> list[Float[Array, "g t2 d"]]:
    """The arrays as that layer takes them: the slots of a soft one mix the tokens of a group."""
    return [a.reshape(-1, case.group_size, case.d) if name == "soft" else a for a in arrays]


def sparse(case: Case, dispatch: str, router: str = "softmax_top_k") -> SparseMoE:
    """A sparse layer whose experts are as popular as the case says; ValueError where its router cannot be skewed."""
    slots = {} if dispatch == "grouped" else {"capacity_factor": case.factor, "group_size": case.group_size}

    def make() -> SparseMoE:
        return SparseMoE(
            case.d,
            case.experts,
            lambda rngs: MLP(case.d, case.h, dtype=jnp.dtype(case.dtype), rngs=rngs),
            k=case.k,
            router=router,
            dispatch=dispatch,
            **slots,
            rngs=nnx.Rngs(0),
        )

    layer = jax.jit(make)()
    if getattr(layer.router, "kernel", None) is not None:
        kernel = jax.random.normal(jax.random.key(1), (case.d, case.experts)) / np.sqrt(case.d)
        layer.router.kernel = nnx.Param(kernel.at[0].set(-case.skew * jnp.log1p(jnp.arange(case.experts))))
    elif case.skew:
        raise ValueError(f"skew is {case.skew:g}, but {router} has no matrix to be skewed; leave it 0 there.")
    return layer


def makers(case: Case) -> dict[str, Callable[[], nnx.Module]]:
    """Every way to spend the same kind of parameters on the tokens, to be made.

    `dense` runs all experts on all tokens; `mlp` is one MLP of hidden width k · h, the FLOPs that a sparse layer's
    tokens need; `soft` has slots for k experts a token.
    """
    d, h, dtype = case.d, case.h, jnp.dtype(case.dtype)

    def expert(rngs: nnx.Rngs) -> MLP:
        return MLP(d, h, dtype=dtype, rngs=rngs)

    slots = max(1, case.k * case.group_size // case.experts)
    return {
        "mlp": jax.jit(lambda: MLP(d, case.k * h, dtype=dtype, rngs=nnx.Rngs(0))),
        "einsum": partial(sparse, case, "einsum"),
        "gather": partial(sparse, case, "gather"),
        "grouped": partial(sparse, case, "grouped"),
        "soft": jax.jit(lambda: SoftMoE(d, case.experts, expert, slots=slots, rngs=nnx.Rngs(0))),
        "dense": jax.jit(lambda: DenseMoE(d, case.experts, expert, rngs=nnx.Rngs(0))),
    }


def layers(case: Case) -> dict[str, nnx.Module]:
    """All of `makers`, made."""
    return {name: make() for name, make in makers(case).items()}


def forward(module: nnx.Module, x: Float[Array, "1 t d"], **more: Array | None) -> Float[Array, "1 t d"]:
    """The layer's output, in training; plain modules and layers alike."""
    return module(x) if isinstance(module, MLP) else module(x, train=True, **more)[0]


def with_gradients(f: Callable[..., Array]) -> Callable[..., tuple[Any, Any]]:
    """`(module, x, dy) → (f(module, x), gradients of x and of every parameter)`."""

    def call(module: nnx.Module, x: Array, dy: Array, **more: Array | None) -> tuple[Any, Any]:
        y, transpose = jax.vjp(partial(f, **more), module, x)
        return y, transpose(dy)  # without y, XLA would leave out the experts' last product

    return call


forward_backward = with_gradients(forward)
PASSES = {"forward": (forward, 1), "forward_backward": (forward_backward, 2)}  # with the arguments beside the layer


def unevenness(layer: SparseMoE, x: Float[Array, "1 t d"], **more: Array | None) -> dict[str, float]:
    """What a sparse layer drops in training, and how uneven its experts' load is (MaxVio)."""
    routing = jax.jit(lambda layer, x, **more: layer(x, train=True, **more)[1])(layer, x, **more)
    return {"dropped": float(dropped(routing)), "max_violation": float(max_violation(load(routing)))}


class Program(NamedTuple):
    """A compiled function with its arguments."""

    call: Callable[[], Any]
    peak_bytes: int  # arguments, results and what is alive in between


def program(f: Callable, *arguments: Any, **more: Any) -> Program:
    """Compile `f` for its arguments."""
    compiled = jax.jit(f).lower(*arguments, **more).compile()
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(lambda: compiled(*arguments, **more), peak)
