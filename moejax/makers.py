"""Functions that make a module: a layer takes them for its experts, its shared expert and its gate."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx

from moejax.errors import abridged

MakeExpert = Callable[..., nnx.Module]  # called as make(rngs) or make(rngs=rngs)

# Variables that Flax's modules change while they run; under vmap, in a compiled program and in a copy that is lost.
_CHANGES = (nnx.RngState, nnx.BatchStat, nnx.Cache, nnx.Intermediate)


def made(make: MakeExpert, rngs: nnx.Rngs, name: str) -> Any:
    """Make a module: by `make(rngs=rngs)` where that can be called, else by `make(rngs)`.

    `partial(MLP, 8, 16)` will do. Raises ValueError, naming the argument `name`, if `make` is no such function, or if
    the module has variables that change while it runs.
    """
    example = f"{name}=lambda rngs: moejax.MLP(8, 16, rngs=rngs)"
    if isinstance(make, nnx.Module) or not callable(make) or _makes_another(make):
        raise ValueError(f"{name} is {_called(make)}; give a function that makes one, such as {example}.")
    if _takes(make, rngs=rngs):
        module = make(rngs=rngs)
    elif _takes(make, rngs):
        module = make(rngs)
    else:
        raise ValueError(f"{name} must be a function of rngs alone, such as {example}; {_called(make)} needs more.")
    if not isinstance(module, nnx.Module):
        raise ValueError(f"{name} made {_called(module)}, which is no flax.nnx.Module; try {example}.")
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if isinstance(variable, _CHANGES):
            raise ValueError(
                f"{name} made a {type(module).__name__} with {'.'.join(map(str, path))}, which changes in every call"
                " (nnx.Dropout and nnx.BatchNorm have such variables); a layer would lose the change. For dropout set"
                " `draws = True` in the module and use the `key` that its call then gets (see moejax.models.dropout),"
                " for normalisation nnx.LayerNorm."
            )
    return module


def _makes_another(make: Callable) -> bool:
    """Whether it is a class of no modules, such as int, whose signature may say that it takes all."""
    while isinstance(make, partial):
        make = make.func
    return isinstance(make, type) and not issubclass(make, nnx.Module)


def _takes(make: Callable, *args: Any, **by_name: Any) -> bool:
    """Whether `make` can be called with these arguments, as far as it says what it takes."""
    inner = make
    while isinstance(inner, partial):
        args, by_name, inner = inner.args + args, inner.keywords | by_name, inner.func
    if isinstance(inner, type):  # Flax's classes hide what they take
        args, inner = (None, *args), inner.__init__
    try:
        inspect.signature(inner).bind(*args, **by_name)
    except (TypeError, ValueError):  # it takes others; it does not say, as a builtin
        return False
    return True


def _called(value: Any) -> str:
    if isinstance(value, nnx.Module):
        return f"a {type(value).__name__} itself"
    return getattr(value, "__name__", None) or abridged(repr(value))
