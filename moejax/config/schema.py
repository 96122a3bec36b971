"""Which options each section of a configuration has, given the names that are chosen in it.

Every option is declared with what it configures: a data set's loader, a model, a layer, a router, an expert, a loss. A
section has the options of its root and, where one of them is a `Choice`, those of the entry that it names.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

from moejax.config.training import ParallelOptions, TrainOptions
from moejax.data import DATASETS
from moejax.files import abridged
from moejax.losses import auxiliary_loss
from moejax.models import MODELS
from moejax.models.layer import LayerOptions
from moejax.options import Choice, Needs, Options, choice_of, model_of, options_of

Chosen = Mapping[str, Mapping[str, Any]]  # section → option → value


def _of_a_folder(name: str) -> str:
    if name in ("", ".", "..") or len(name) > 100 or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(
            f"{abridged(repr(name))}; it is part of a folder's name: 1 to 100 printable characters, without slashes"
        )
    return name


class RunOptions(Options):
    """The options of no section."""

    name: Annotated[str, AfterValidator(_of_a_folder)] = "custom"
    """What the run is called in its folder and report."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Fixes the validation split, the first parameters, the order of examples and the augmentation."""


class DataOptions(Options):
    """The options of every data set."""

    name: Annotated[str, Choice(DATASETS)] = "mnist"
    """The data set."""
    limit: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Train on so many examples only, the first of what is left; none: on all."""
    evaluation_limit: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Validate and test on so many examples only, the first; none: on all."""


class ModelOptions(Options):
    """The options of every model."""

    name: Annotated[str, Choice(MODELS)] = "image"
    """Which network."""


ROOTS: dict[str, type[Options]] = {
    "": RunOptions,
    "data": DataOptions,
    "model": ModelOptions,
    "moe": LayerOptions,
    "train": TrainOptions,
    "parallel": ParallelOptions,
}
# Beside what a weight of `auxiliary_loss` has an effect.
_LOSSES = {
    "balance": (Needs("layer", ("sparse",)),),
    "z": (Needs("layer", ("sparse",)),),
    "load": (Needs("layer", ("sparse",)), Needs("router", ("noisy_top_k", "vmoe"))),
    "assignment": (Needs("layer", ("dense",)),),
}


class Section:
    """The options of a section, with the classes and functions that declare them."""

    def __init__(self, name: str, chosen: Chosen):
        self.name, self.prefix = name, f"{name}." if name else ""
        self.calls: list[Callable] = []
        self.fields: dict[str, FieldInfo] = {}
        self.came_with: dict[str, str] = {}  # the choices that brought an option, in words
        model = MODELS.get(chosen.get("model", {}).get("name"), MODELS["image"])
        self.without = {"expert", "shared"} - set(model.moe_options) if name == "moe" else set()
        self._add(ROOTS[name], chosen.get(name, {}), "", {"expert": model.experts} if name == "moe" else {})
        if name == "moe":
            for loss, field in options_of(auxiliary_loss).items():
                self.fields[f"{loss}_weight"] = _with(field, _LOSSES.get(loss, ()))

    def _add(self, call: Callable, chosen: Mapping[str, Any], words: str, tables: Mapping[str, Mapping]) -> None:
        self.calls.append(call)
        new = {name: f for name, f in options_of(call).items() if name not in self.fields and name not in self.without}
        new = {name: _of_table(f, tables[name]) if name in tables else f for name, f in new.items()}
        self.fields |= new
        self.came_with |= dict.fromkeys(new, words)
        for name, field in new.items():
            if choice := choice_of(field):
                picked = chosen.get(name)
                picked = picked if isinstance(picked, str) and picked in choice.table else field.default
                with_this = f"{words} with {self.prefix}{name} {picked}".removeprefix(" with ")
                if callable(choice.table[picked]):
                    self._add(choice.table[picked], chosen, with_this, tables)

    def contradictions(self, options: Any) -> Iterator[str]:
        """What its options must not be together."""
        for call in self.calls:
            yield from getattr(call, "contradictions", lambda _: ())(options)

    def model(self) -> type[Options]:
        """Its pydantic model, the same one for the same choices."""
        if self.fields == ROOTS[self.name].model_fields:
            return ROOTS[self.name]
        key = (self.name, *self.calls, *self.fields)
        if key not in _MODELS:
            _MODELS[key] = model_of(self.name.capitalize(), self.fields)
        return _MODELS[key]


_MODELS: dict[tuple, type[Options]] = {}


def _of_table(field: FieldInfo, table: Mapping[str, Any]) -> FieldInfo:
    """A choice of another table."""
    changed = copy.copy(field)
    changed.metadata = [Choice(table) if isinstance(note, Choice) else note for note in field.metadata]
    changed.default = field.default if field.default in table else next(iter(table))
    return changed


def _with(field: FieldInfo, needs: tuple[Needs, ...]) -> FieldInfo:
    changed = copy.copy(field)
    changed.metadata = [*field.metadata, *needs]
    return changed


@cache
def everything() -> dict[str, dict[str, FieldInfo]]:
    """All options there are: dotted name → the choices that bring it, in words → its declaration."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for name in ROOTS:
        for chosen in _variants(name):
            section = Section(name, chosen)
            for option, field in section.fields.items():
                words = section.came_with.get(option, "")
                if name == "moe" and option in ("expert", "shared"):
                    words = f"model.name {chosen['model']['name']}"
                found.setdefault(section.prefix + option, {}).setdefault(words, field)
    return found


def _variants(name: str) -> list[Chosen]:
    """Choices that bring every option of a section at least once."""
    models: list[Chosen] = [{"model": {"name": model}} for model in MODELS]
    if name == "data":
        return [{"data": {"name": data}} for data in DATASETS]
    if name != "moe":
        return models
    layers = choice_of(options_of(LayerOptions)["layer"]).table
    found = [model | {"moe": {"layer": layer}} for model in models for layer in layers]
    routers = choice_of(options_of(layers["sparse"])["router"]).table
    return found + [models[0] | {"moe": {"layer": "sparse", "router": router}} for router in routers]
