"""Options: what a constructor or function may be told, declared where it is used and nowhere else.

    class SoftMoE(nnx.Module):
        '''Experts see mixtures of tokens.

        Args:
          slots: slots per expert.
        '''

        @checked
        def __init__(self, d: int, ..., *, slots: Annotated[int, Field(ge=1)] = 3): ...

An option is a parameter of a constructor or function, or an attribute of a class, that has a default and whose meaning
stands in the docstring's `Args:`. (What a class is given as one value it declares as its `options`, a model whose
attributes have their meaning in a docstring below.) The configuration, the command line, its help and the tables of
the READMEs read them there (`options_of`). Python's own check reads the types and bounds of all arguments that are
plain, or annotated by pydantic's `Field` (`checked`).

A `Choice` makes an option the name of an entry of a table, whose own options come with it. `Needs` says beside what an
option has an effect. What options must not be together a class says in a static method `contradictions(options)`. In a
sentence an option's name stands in backticks; the command line puts its section before it.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, core_schema

from moejax.errors import abridged, did_you_mean

F = TypeVar("F", bound=Callable)
Declared = Mapping[str, FieldInfo]

_MOST = 1e30  # of what float32 holds
Count = Annotated[int, Field(ge=1, le=2**16)]
Width = Annotated[int, Field(ge=1, le=2**20)]
Positive = Annotated[float, Field(gt=0, le=_MOST)]
PositiveOrNone = Annotated[float | None, Field(gt=0, le=_MOST)]
NotNegative = Annotated[float, Field(ge=0, le=_MOST)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Options(BaseModel):
    """Values of options, frozen."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True, eq=False)
class Choice:
    """The option is the name of an entry of the table: of a class or function with options of its own.

    An argument whose type has others than names, such as an entry itself, may be one of those; no option is.
    """

    table: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._name, handler(source))

    def _name(self, value: Any) -> Any:
        if isinstance(value, str) and value not in self.table:
            raise ValueError
        return value


@dataclass(frozen=True)
class Needs:
    """The option has an effect only where the other one has one of these values, or one that this function is true of.

    Its value `off`, as none, says just that. `words`: what such a function is true of.
    """

    other: str
    values: tuple[Any, ...] | Callable[[Any], bool]
    words: str = ""
    off: Any = None

    def met(self, options: Any) -> bool:
        """Whether it has one of them; an option that is not there is not needed."""
        if not hasattr(options, self.other):
            return True
        value = getattr(options, self.other)
        return self.values(value) if callable(self.values) else value in self.values

    def __str__(self) -> str:
        return self.words if callable(self.values) else " or ".join(map(shown, self.values))


def options_of(call: Callable) -> dict[str, FieldInfo]:
    """The options of a class or a function, by name, in the order in which they are declared."""
    call = inspect.unwrap(call)
    while isinstance(call, functools.partial):
        call = inspect.unwrap(call.func)
    fields = arguments_of(call).items()
    return {name: _by_name(f) for name, f in fields if f.description and f.default is not PydanticUndefined}


def _by_name(field: FieldInfo) -> FieldInfo:
    """The declaration, of names alone where there is a table of them."""
    if choice_of(field) is None or field.annotation is str:
        return field
    named = copy(field)
    named.annotation = str
    return named


@functools.cache
def arguments_of(call: Callable) -> Declared:
    """All that pydantic can check of what a class or a function is given, options and others."""
    if not isinstance(call, type):
        return _of_function(call, _meanings(call))
    if model := call if issubclass(call, Options) else getattr(call, "options", None):
        return dict(model.model_fields)
    hints, meanings = typing.get_type_hints(call, include_extras=True), _meanings(call)
    attributes = {name: getattr(call, name, PydanticUndefined) for name in hints if not name.startswith("_")}
    return _fields(attributes, hints, meanings) | _of_function(call.__init__, meanings)


def _of_function(function: Callable, meanings: Mapping[str, str]) -> dict[str, FieldInfo]:
    function = inspect.unwrap(function)
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: PydanticUndefined if p.default is p.empty else p.default for p in parameters}
    return _fields(defaults, typing.get_type_hints(function, include_extras=True), meanings)


def _fields(defaults: Mapping[str, Any], hints: Mapping[str, Any], meanings: Mapping[str, str]) -> dict[str, FieldInfo]:
    """Declarations of those with these defaults whose type is plain or annotated."""
    found = {}
    for name, default in defaults.items():
        hint: Any = hints.get(name)
        if hasattr(hint, "__metadata__") or all(k in _WORDS or typing.get_origin(k) is Literal for k in _kinds(hint)):
            found[name] = FieldInfo.from_annotated_attribute(hint, default)
            found[name].description = found[name].description or meanings.get(name)
    return found


def _meanings(call: Callable) -> dict[str, str]:
    """What `Args:` says in the docstring of a function, or of a class and those that it extends."""
    found: dict[str, str] = {}
    for part in reversed(call.__mro__) if isinstance(call, type) else [call]:
        arguments = inspect.cleandoc(part.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^  (\w+): (.*(?:\n   .*)*)", arguments, re.MULTILINE):
            found[name] = " ".join((text[0].upper() + text[1:]).split())
    return found


def model_of(name: str, declared: Declared, base: type[Options] = Options) -> type[Options]:
    """The pydantic model of such options, beside those of `base`."""
    fields: dict[str, Any] = {option: (field.annotation, field) for option, field in declared.items()}
    return create_model(name, __base__=base, **fields)


def checked(function: F) -> F:
    """Let a constructor or a function refuse options that make no sense: ValueError, in one sentence."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def refusing(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own sentence names the function
        owner = _class_of(function, args) or inspect.unwrap(function)
        declared = arguments_of(owner)
        given = {name: value for name, value in bound.arguments.items() if name in declared}
        bound.arguments.update(valid(declared, given, getattr(owner, "contradictions", None)))
        return function(*bound.args, **bound.kwargs)

    return typing.cast(F, refusing)


def _class_of(constructor: Callable, args: tuple) -> type | None:
    """The class whose constructor it is, of those of the first argument; None for another function."""
    classes = type(args[0]).__mro__ if args else ()
    own = ((c, vars(c).get("__init__")) for c in classes)
    return next((c for c, init in own if init and inspect.unwrap(init) is inspect.unwrap(constructor)), None)


def valid(declared: Declared, given: Mapping[str, Any], contradictions: Callable | None = None) -> dict[str, Any]:
    """The given values, NumPy's numbers as Python's; ValueError with the first sentence if there is one."""
    values = {name: plain(value) for name, value in given.items()}
    for sentence in problems(declared, values, contradictions):
        raise ValueError(in_words(sentence))
    return values


def require(name: str, value: Any, kind: Any) -> None:
    """ValueError, in one sentence, unless the value is of this kind, such as `Positive`."""
    valid({name: FieldInfo.from_annotation(kind)}, {name: value})


def problems(declared: Declared, given: Mapping[str, Any], contradictions: Callable | None = None) -> Iterator[str]:
    """A sentence for each value that its option does not take, and for each of the others that goes ill with others."""
    wrong = refusals(declared, given)
    right = {name: value for name, value in given.items() if name not in wrong}
    yield from wrong.values()
    yield from conflicts(declared, right, right, wrong, contradictions)


def refusals(declared: Declared, given: Mapping[str, Any]) -> dict[str, str]:
    """The sentence for each value that its option does not take, by the option's name."""
    found = {}
    for name, value in given.items():
        try:
            _adapter(_annotation(declared[name])).validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors()[0].get("ctx", {}).get("error")
            if not str(said or ""):
                said = f"{shown(value)}; it must be {expected(declared[name], value)}"
            found[name] = f"`{name}` is {said}."
    return found


def conflicts(
    declared: Declared,
    values: Mapping[str, Any],
    given: Iterable[str],
    wrong: Iterable[str] = (),
    contradictions: Callable | None = None,
    *,
    also_defaults: bool = False,
) -> Iterator[str]:
    """A sentence for each of the `given` options that has no effect beside the others, and for each contradiction.

    What is said of options that are `wrong` by themselves is left out, and of those that are given their default, which
    a program may pass on, unless `also_defaults`.
    """
    options = types.SimpleNamespace(**{name: values.get(name, field.default) for name, field in declared.items()})
    chosen = [name for name in given if also_defaults or getattr(options, name) != declared[name].default]
    said = [sentence for name in chosen for sentence in _without_effect(name, declared[name], options)]
    said += contradictions(options) if contradictions else ()
    yield from (sentence for sentence in said if not any(f"`{name}`" in sentence for name in wrong))


def _without_effect(name: str, field: FieldInfo, options: Any) -> Iterator[str]:
    value = getattr(options, name)
    for need in field.metadata:
        if isinstance(need, Needs) and value not in (None, need.off) and not need.met(options):
            yield (
                f"`{name}` is {shown(value)}, but `{need.other}` is {shown(getattr(options, need.other))}; it has"
                f" an effect only where `{need.other}` is {need}."
            )


def in_words(sentence: str, section: str = "") -> str:
    """A sentence with its options' names in full."""
    return re.sub(r"`([\w.]+)`", lambda name: name[1] if "." in name[1] else section + name[1], sentence)


def from_text(field: FieldInfo, text: str) -> Any:
    """The value that a word of the command line means; the word itself if it means none."""
    if text.lower() == "none" and _takes_none(field.annotation):
        return None
    if _kinds(field.annotation) == [bool]:  # pydantic takes more words than these
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        kind: Any = field.annotation
        return _adapter(kind).validate_strings(text)  # within its bounds or not
    except ValidationError:
        return text


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if isinstance(value, Integral) and not isinstance(value, bool | int):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, int | float | bool) else value


def expected(field: FieldInfo, value: Any = None) -> str:
    """What an option takes, in words; that float32 cannot hold more is worth saying only of such a value."""
    names = names_of(field)
    kinds = [f"one of {', '.join(names)}"] if names else []
    kinds += [_word(kind) for kind in _kinds(field.annotation) if not (names and _names(kind))]
    return " or ".join(kinds) + _bounds(field, value) + (", or none" if _takes_none(field.annotation) else "")


def choice_of(field: FieldInfo) -> Choice | None:
    """The table that an option names an entry of."""
    return next((note for note in field.metadata if isinstance(note, Choice)), None)


def names_of(field: FieldInfo) -> tuple[str, ...]:
    """The names that an option takes, if it takes names."""
    if choice := choice_of(field):
        return tuple(choice.table)
    return tuple(
        arg for kind in _kinds(field.annotation) if typing.get_origin(kind) is Literal for arg in kind.__args__
    )


def no_option(name: str, of: str, there: Iterable[str], others: Iterable[str] = ()) -> str:
    """The sentence for a name that is none of the options `there`; it may have meant one of those or of the others."""
    near = did_you_mean(name, [*there, *others])
    return f"{name} is no option of {of}, which has {', '.join(there)}" + (f"; did you mean {near}?" if near else ".")


def meaning(entry: Any) -> str:
    """What an entry of a table is: its own line there, or the first of its docstring."""
    return entry if isinstance(entry, str) else (inspect.getdoc(entry) or "").partition("\n")[0]


def shown(value: Any) -> str:
    """A value in a sentence, its beginning where it is long."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return abridged(value if isinstance(value, str) and value.isidentifier() else repr(value))


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _word(kind: Any) -> str:
    of = typing.get_origin(kind)
    if of is type:
        return f"a subclass of {kind.__args__[0].__name__}"
    return _WORDS.get(kind) or ("a function" if of is Callable else f"a {kind.__name__}")


def _names(kind: Any) -> bool:
    return kind is str or typing.get_origin(kind) is Literal


def up_to(most: int) -> Any:
    """The kind of whole numbers from 1 to this one."""
    return Annotated[int, Field(ge=1, le=most)]


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))


def _annotation(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _kinds(annotation: Any) -> list[Any]:
    """The types of a union, None aside."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return [annotation]


def _takes_none(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _bounds(field: FieldInfo, value: Any) -> str:
    notes = [(kind, getattr(note, kind, None)) for note in field.metadata for kind in ("ge", "gt", "le", "lt")]
    beyond = isinstance(value, float | int) and value > _MOST
    limits = {kind: _digits(limit) for kind, limit in notes if limit is not None and (limit < _MOST or beyond)}
    if {"ge", "le"} <= set(limits):
        return f" from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    said = " and ".join(f"{words[kind]} {limit}" for kind, limit in limits.items())
    return f" {said}" if said else ""


def _digits(number: int | float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 10**15 else f"{number:g}"
