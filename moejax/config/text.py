"""`config.json`: a configuration as text and back."""

import json
from collections.abc import Iterator
from typing import Any

from moejax.config.config import Config, configured, dotted
from moejax.config.schema import ROOTS
from moejax.errors import UserError, abridged
from moejax.options import Needs, Options


def to_json(config: Config) -> str:
    """The text of a run's `config.json`: every option that has an effect."""
    return json.dumps(_tree(config), indent=2) + "\n"


def flatten(config: Config) -> dict[str, Any]:
    """Values by dotted name, in the order of the schema."""
    return dotted(_tree(config))


def chosen(config: Config) -> dict[str, Any]:
    """The options with an effect that are not at their defaults, by dotted name: what a preset and words made of it."""
    return dict(_chosen(config))


def _chosen(options: Options, prefix: str = "") -> Iterator[tuple[str, Any]]:
    fields = type(options).model_fields
    for name, value in _tree(options).items():
        if isinstance(inner := getattr(options, name), Options):
            yield from _chosen(inner, f"{prefix}{name}.")
        elif value != fields[name].default:
            yield f"{prefix}{name}", value


def _tree(options: Options) -> dict[str, Any]:
    tree = {}
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if all(note.met(options) for note in field.metadata if isinstance(note, Needs)):
            tree[name] = _tree(value) if isinstance(value, Options) else value
    return tree


def from_json(text: str, origin: str) -> tuple[Config, list[str]]:
    """Read a `config.json`; what it does not name has its default. `origin` names the file in errors."""
    values: dict[str, Any] = {}
    problems = []
    for name, value in _read(text, origin):
        if name in values:
            problems.append(f"{origin} gives {abridged(name)} twice; leave one out.")
        values[name] = value
    config, more = configured({name: v for name, v in values.items() if v != _Object() or name not in ROOTS})
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
