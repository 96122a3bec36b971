"""Configurations as text: typed overrides from the command line, and `config.json`. One parser serves both.

Nothing here raises for a wrong value: `overlay` returns sentences, so that a user sees all that is wrong at once.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from moejax.config.bounds import abridged
from moejax.config.schema import Config
from moejax.errors import UserError


def flatten(config: Config) -> dict[str, Any]:
    """Values by dotted name, in the order of the schema."""
    return _flatten(dataclasses.asdict(config))


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def overlay(base: Config, values: Mapping[str, str], options: Sequence[str] = ()) -> tuple[Config, list[str]]:
    """Replace values of `base`, given as text by dotted name; returns what could be set, and a sentence per error.

    `options` are further names that a misspelt one may have meant.
    """
    kinds, problems, by_section = _kinds(Config), [], {}
    for name, text in values.items():
        if name not in kinds:
            problems.append(f"There is no field {abridged(name)}{_did_you_mean(name, [*options, *kinds])}.")
            continue
        try:
            value = _parse(text, kinds[name])
        except ValueError:
            problems.append(f"{name} is {abridged(repr(text))}, which is not {_describe(kinds[name])}.")
        else:
            section, _, field = name.rpartition(".")
            by_section.setdefault(section, {})[field] = value
    top = by_section.pop("", {})
    sections = {s: dataclasses.replace(getattr(base, s), **fields) for s, fields in by_section.items()}
    return dataclasses.replace(base, **top, **sections), problems


def to_json(config: Config) -> str:
    """The text of a run's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, origin: str) -> tuple[Config, list[str]]:
    """Read a `config.json`; fields it does not name keep their defaults. `origin` names the file in errors."""
    kinds, values, problems = _kinds(Config), {}, []
    for name, value in _read(text, origin):
        kind = kinds.get(name)
        if value == _Object() and any(field.startswith(f"{name}.") for field in kinds):
            continue
        if name in values:
            problems.append(f"{origin} gives {abridged(name)} twice; leave one out.")
        elif kind in (str, str | None) and not isinstance(value, kind):
            problems.append(f"{name} is {abridged(json.dumps(value))}, which is not {_describe(kind)}.")
        else:
            values[name] = _text(value)
    config, more = overlay(Config(), values)
    return config, problems + more


class _Object(list):
    """An object of JSON as its pairs, for it may hold a key twice."""


def _read(text: str, origin: str) -> list[tuple[str, Any]]:
    """Names and values, in their order; UserError if the text is no JSON object."""
    try:
        tree = json.loads(text, object_pairs_hook=_Object)
        if isinstance(tree, _Object):
            return list(_leaves(tree))
        kind = type(tree).__name__
    except json.JSONDecodeError as error:
        problem = f"is not valid JSON (line {error.lineno}: {error.msg}); mend it or use a preset"
    except RecursionError:
        problem = "is not a config.json: it holds objects within objects beyond counting"
    except ValueError as error:  # a number of more digits than Python reads
        problem = f"is not a config.json: {str(error).partition(';')[0]}"
    else:
        problem = f"holds {kind}, not the object that a config.json is"
    raise UserError(f"{origin} {problem}.")


def _leaves(tree: _Object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree:
        if isinstance(value, _Object) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _kinds(cls: type, prefix: str = "") -> dict[str, Any]:
    kinds = {}
    for name, kind in typing.get_type_hints(cls).items():
        kinds |= _kinds(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {f"{prefix}{name}": kind}
    return kinds


def _parse(text: str, kind: Any) -> Any:
    """Text to a value of that type; raises ValueError."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return None if text.lower() == "none" else _parse(text, next(k for k in kind.__args__ if k is not type(None)))
    if origin is Literal:
        if text not in kind.__args__:
            raise ValueError
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if value is not None else "none"


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join(_describe(k) for k in kind.__args__)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(kind.__args__)
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}[kind]


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    by_last = {n.rpartition(".")[2]: n for n in known}
    near = difflib.get_close_matches(name, known, n=1) or [
        by_last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)
    ]
    return f"; did you mean {near[0]}?" if near else "; --help lists all fields"
