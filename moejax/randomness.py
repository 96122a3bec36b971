"""Random numbers: Flax's `rngs` for parameters, a key a step for noise, and a stream of it for each that draws."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key, PyTree

Call = TypeVar("Call", bound=Callable)


def require_rngs(rngs: Any) -> nnx.Rngs:
    """The random streams that parameters are drawn from; raises ValueError for anything else."""
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"rngs is a {type(rngs).__name__}; give flax.nnx.Rngs(0), or of another seed.")
    if not {"params", "default"} & set(rngs):
        raise ValueError(f"rngs has the streams {', '.join(rngs)}; it needs params or default, as in nnx.Rngs(0).")
    return rngs


def draw_key(call: Call) -> Call:
    """Let a layer's `call(layer, x, …)` take `rngs` in place of `key`.

    The key is drawn before the call compiles anything: inside a program the counters of `rngs` would stand still.
    """

    @wraps(call)
    def with_key(layer: nnx.Module, x: Any, *, rngs: Any = None, **options: Any) -> tuple[Array, PyTree]:
        key = key_of_step(options.pop("key", None), rngs, options.get("train", False))
        return call(layer, x, key=key, **options)

    return cast(Call, with_key)


def key_of_step(
    key: Key[Array, ""] | None, rngs: nnx.Rngs | nnx.RngStream | None, train: bool
) -> Key[Array, ""] | None:
    """The key that a layer was called with, or in training one from the stream `dropout` of `rngs`, as `nnx.Dropout`'s.

    Raises ValueError if both are given, or what is neither.
    """
    if key is not None and not _is_one(key):
        kind = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else f"a {type(key).__name__}"
        raise ValueError(f"key is {kind}; give one key, such as jax.random.key(0) or that of another seed.")
    if rngs is None:
        return key
    if key is not None:
        raise ValueError("key and rngs are both given; give one of them.")
    if not isinstance(rngs, nnx.Rngs | nnx.RngStream):
        raise ValueError(f"rngs is a {type(rngs).__name__}; give a flax.nnx.Rngs, or key=jax.random.key(…).")
    if not train:
        return None
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if not {"dropout", "default"} & set(rngs):
        raise ValueError(f"rngs has the streams {', '.join(rngs)}; it needs dropout or default, as in nnx.Rngs(0).")
    return rngs.dropout()


def _is_one(key: Any) -> bool:
    """Whether it is a single key, JAX's own or the numbers of one as jax.random.PRNGKey gives them."""
    if not isinstance(key, jax.Array):
        return False
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.shape == () if typed else key.dtype == jnp.uint32 and key.ndim == 1


def key_for(
    module: nnx.Module | None, key: Key[Array, ""] | None, train: bool, stream: int = 2
) -> Key[Array, ""] | None:
    """The key for a module that draws in training, independent of the router's noise; None for other modules.

    Raises ValueError if a module that draws gets no key.
    """
    if not (train and getattr(module, "draws", False)):
        return None
    if key is None:
        raise ValueError(
            f"key is None, but {type(module).__name__} draws random numbers in training; pass key=jax.random.key(…),"
            " another one in every step."
        )
    return jax.random.fold_in(key, stream)
