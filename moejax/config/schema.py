"""Which options each section of a configuration has, given the names that are chosen in it.

Every option is declared with what it configures: a data set's loader, a model, a layer, a router, an expert, a loss. A
section has the options of its root and, where one of them is a `Choice`, those of the entry that it names.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

from moejax.config.training import ParallelOptions, TrainOptions
from moejax.data import DATASETS
from moejax.data.dataset import Path
from moejax.errors import abridged
from moejax.models import MODELS
from moejax.models.layer import LayerOptions
from moejax.options import Choice, Options, choice_of, model_of, names_of, options_of

Chosen = Mapping[str, Mapping[str, Any]]  # section → option → value


def _of_a_folder(name: str) -> str:
    if any(c in "/\\" or not c.isprintable() for c in name) or name in ("", ".", "..") or not _is_short(name):
        raise ValueError(
            f"{abridged(repr(name))}; it is part of a folder's name: 1 to 100 printable characters, without slashes, of"
            " at most 200 bytes"
        )
    return name


def _is_short(name: str) -> bool:
    return len(name) <= 100 and len(name.encode()) <= 200  # a time is added, and file systems take 255


class RunOptions(Options):
    """The options of no section."""

    name: Annotated[str, AfterValidator(_of_a_folder)] = "custom"
    """What the run is called in its folder and report."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Fixes the validation split, the first parameters, the order of examples and the augmentation."""
    init: Path = None
    """Begin from the parameters of the run in this folder: of each array of the same name and shape; none: anew."""
    upcycle: bool = False
    """With init: experts begin as copies of the one expert of a dense run, and the network computes what it did."""
    log: Literal["tensorboard", "wandb"] | None = None
    """Where metrics go beside metrics.jsonl: TensorBoard's files (needs tensorboardX), or Weights & Biases (wandb)."""

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        if o.upcycle and o.init is None:
            yield "`upcycle` is true, but `init` is none; name the dense run by --init RUN."


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


class Section:
    """The options of a section, with the classes and functions that declare them."""

    def __init__(self, name: str, chosen: Chosen):
        self.name, self.prefix = name, f"{name}." if name else ""
        self.root = ROOTS[name]
        if name == "moe":  # the model says which options its layers have
            model = ModelOptions.model_fields["name"]
            self.root = MODELS[_picked(model, chosen.get("model", {}).get("name"))].layer_options
        self.calls: list[Callable] = []
        self.fields: dict[str, FieldInfo] = {}
        self.came_with: dict[str, str] = {}  # the choices that brought an option, in words
        self._add(self.root, chosen.get(name, {}), "")

    def _add(self, call: Callable, chosen: Mapping[str, Any], words: str) -> None:
        self.calls.append(call)
        new = {name: field for name, field in options_of(call).items() if name not in self.fields}
        self.fields |= new
        self.came_with |= dict.fromkeys(new, words)
        for name, field in new.items():
            if choice := choice_of(field):
                picked = _picked(field, chosen.get(name))
                with_this = f"{words} with {self.prefix}{name} {picked}".removeprefix(" with ")
                if callable(choice.table[picked]):
                    self._add(choice.table[picked], chosen, with_this)

    def contradictions(self, options: Any) -> Iterator[str]:
        """What its options must not be together."""
        for call in self.calls:
            yield from getattr(call, "contradictions", lambda _: ())(options)

    def model(self) -> type[Options]:
        """Its pydantic model, the same one for the same choices."""
        return _model(self.name, *self.calls)


def _picked(field: FieldInfo, value: Any) -> str:
    """The name that is chosen; the default in place of what is none."""
    return value if isinstance(value, str) and value in names_of(field) else field.default


@cache
def _model(name: str, root: type[Options], *calls: Callable) -> type[Options]:
    own: dict[str, FieldInfo] = {}
    for call in calls:
        own |= {name: f for name, f in options_of(call).items() if name not in own and name not in root.model_fields}
    return model_of(name.capitalize(), own, root) if own else root


@cache
def everything() -> dict[str, dict[str, FieldInfo]]:
    """All options there are: dotted name → the choices that bring it, in words → its declaration."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for name in ROOTS:
        for chosen in _variants(name):
            section = Section(name, chosen)
            for option, field in section.fields.items():
                words = section.came_with[option]
                if not words and option not in ROOTS[name].model_fields:
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
