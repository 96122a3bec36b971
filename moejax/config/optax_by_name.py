"""Any optimiser of optax by its name there, such as `optax.lion`, with arguments in words: `b1=0.95,b2=0.98`.

An optimiser is a function of optax, or of optax.contrib, that takes a learning rate. The run's own options give that,
the weight decay and which parameters decay; its other arguments are checked against its signature. It is then tried on
made-up shapes, so that whatever it refuses is said before anything is trained.
"""

import inspect
import math
import re
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from moejax.errors import abridged, did_you_mean
from moejax.inputs import is_computable
from moejax.options import shown

if TYPE_CHECKING:  # elsewhere only by the functions that need it: who uses a run does without
    import optax

_OPTIONS = {"learning_rate": "train.learning_rate", "weight_decay": "train.weight_decay"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WORDS = {float: "a number", int: "a whole number", bool: "true or false"}  # the widest first
_MASKS = ("mask", "weight_decay_mask")  # which parameters decay
Value = int | float | bool | str | None
Values = Mapping[str, Value]


@cache
def functions() -> dict[str, Callable[..., "optax.GradientTransformation"]]:
    """All there are, by name; but for those that evaluate other parameters than they move."""
    import optax
    import optax.contrib

    rooms = {"optax": optax, "optax.contrib": optax.contrib}
    return {
        f"{room}.{name}": function
        for room, module in rooms.items()
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and "learning_rate" in inspect.signature(function).parameters
        and not name.startswith(("_", "scale_by_", "schedule_free"))
    }


def require(name: str) -> None:
    """ValueError, the end of a sentence, if it is the name of none."""
    if name not in functions():
        near = did_you_mean(name.lower(), functions())
        mean = f"the nearest name is {near}" if near else "see optax's documentation for their names"
        raise ValueError(f"{abridged(name)}, which is no optimiser of optax with a learning rate; {mean}")


def arguments(text: str) -> dict[str, Value]:
    """`b1=0.95,nesterov=true` by name. ValueError, the end of a sentence, for a text that is none of this form."""
    found: dict[str, Value] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not re.fullmatch(r"[a-z]\w*", name, re.ASCII) or not equals or not value or name in found:
            raise ValueError(f"{abridged(repr(text))}; write each argument once, as b1=0.95,nesterov=true")
        found[name] = _value(value)
    return found


def _value(text: str) -> Value:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if not _NUMBER.fullmatch(text):
        return text
    number = float(text)
    return int(text) if text.lstrip("+-").isdecimal() and math.isfinite(number) else number


def decays(name: str) -> bool:
    """Whether this optimiser takes a weight decay."""
    return "weight_decay" in inspect.signature(functions()[name]).parameters


def make(
    name: str, given: Values, *, learning_rate: Any, weight_decay: float, mask: Any
) -> "optax.GradientTransformation":
    """The optimiser; `weight_decay` and the `mask` of what decays go to one that takes them."""
    function = functions()[name]
    ours = {"learning_rate": learning_rate, "weight_decay": weight_decay, **dict.fromkeys(_MASKS, mask)}
    takes = inspect.signature(function).parameters
    return function(**{argument: value for argument, value in ours.items() if argument in takes}, **given)


@cache
def problems(name: str, text: str) -> tuple[str, ...]:
    """A sentence for each thing that is wrong with these arguments of an optimiser, or with itself."""
    given = arguments(text)
    return tuple(_misnamed(name, given)) or tuple(_refused(name, given))


def _misnamed(name: str, given: Values) -> Iterator[str]:
    takes = inspect.signature(functions()[name]).parameters
    own = {argument: p for argument, p in takes.items() if argument not in (*_OPTIONS, *_MASKS)}
    for argument, value in given.items():
        said = f"`optimizer_arguments` has {argument}"
        if argument in _OPTIONS:
            yield f"{said}, which {_OPTIONS[argument]} gives; leave it out there."
        elif argument in _MASKS:
            yield f"{said}, but which parameters decay is decided for all optimisers alike; leave it out."
        elif argument not in own:
            near = did_you_mean(argument, own)
            mean = f"; did you mean {near}?" if near else "."
            yield f"{said}, but {name} has {', '.join(own) or 'no arguments of its own'}{mean}"
        elif must := _kind(own[argument], value):
            yield f"{said}={shown(value)}; for {name} it must be {must}."


def _kind(argument: inspect.Parameter, value: Value) -> str:
    """What the value must be instead, told by the default, or by the type where that is none; empty if it is."""
    default, types = argument.default, typing.get_args(argument.annotation)
    if value is None and (default is None or type(None) in types):
        return ""
    if "dtype" in argument.name:
        return "" if _is_computable(value) else "a floating-point type of at least 16 bits, such as bfloat16"
    kind = next((kind for kind in _WORDS if kind in types), None) if default is None else type(default)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = {float: number, int: number and isinstance(value, int), bool: isinstance(value, bool)}
    if kind in fits:
        return "" if fits[kind] else _WORDS[kind]
    return "" if number or not isinstance(value, float) else "a finite number"


def _is_computable(value: Value) -> bool:
    try:
        return isinstance(value, str) and is_computable(jnp.dtype(value))
    except TypeError:
        return False


def _refused(name: str, given: Values) -> Iterator[str]:
    def changing(step: Any) -> Any:
        return jnp.float32(0.1)

    if reason := _failure(name, {}, 0.1):
        yield f"`optimizer` is {name}, which does not work in a run's loop: {reason}."
    elif _failure(name, {}, changing):
        yield f"`optimizer` is {name}, which takes no learning rate that changes, as a run's does; choose another one."
    elif reason := _failure(name, given, 0.1):
        yield f"`optimizer_arguments` is {shown(_text(given))}, with which {name} does not work: {reason}."
    elif any(jnp.issubdtype(a.dtype, jax.dtypes.extended) for a in jax.tree.leaves(_state(name, given, 0.1))):
        yield f"`optimizer` is {name}, which keeps a random key, and that no checkpoint holds; choose another one."


def _failure(name: str, given: Values, learning_rate: Any) -> str:
    """Why a step of it fails; empty if it does not."""
    try:
        _state(name, given, learning_rate)
    except Exception as error:  # of whatever kind an optimiser raises
        return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return ""


def _state(name: str, given: Values, learning_rate: Any) -> Any:
    """The shapes of its state after a step."""
    import optax

    weights = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}

    def step(weights: Any) -> Any:
        optimizer = make(name, given, learning_rate=learning_rate, weight_decay=0.1, mask=None)
        optimizer = optax.with_extra_args_support(optimizer)
        return optimizer.update(weights, optimizer.init(weights), weights, value=jnp.float32(1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jax.eval_shape(step, weights)[1]


def _text(given: Values) -> str:
    return ",".join(f"{name}={value}" for name, value in given.items())
