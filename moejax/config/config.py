"""A run's configuration, made of values by name, or one sentence for each thing that is wrong with them."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import SerializeAsAny

from moejax.config.mesh_shape import mesh_problems
from moejax.config.schema import ROOTS, DataOptions, ModelOptions, RunOptions, Section, everything
from moejax.config.suggest import unknown
from moejax.config.training import AUGMENTATIONS, ParallelOptions, TrainOptions
from moejax.data import DATASETS
from moejax.errors import UserError, abridged
from moejax.models import MODELS
from moejax.options import Declared, Needs, Options, conflicts, from_text, in_words, plain, refusals
from moejax.routers import ROUTERS


class Config(RunOptions):
    """One run: the same configuration on the same machine gives the same bits.

    `data`, `model` and `moe` hold the options of what their names choose (`moejax.config.schema`).
    """

    data: SerializeAsAny[DataOptions]
    model: SerializeAsAny[ModelOptions]
    moe: SerializeAsAny[Options]
    train: TrainOptions
    parallel: ParallelOptions

    def replace(self, **values: Any) -> "Config":
        """The configuration with other values: `config.replace(seed=1, moe={"layer": "soft"})`.

        What a new choice has no option for is left out. Raises UserError with a sentence for each thing that is wrong.
        """
        return make_config(self, **values)


def make_config(base: Config | None = None, **values: Any) -> Config:
    """The configuration with such values by section, all others as `base` or the declarations have them.

        make_config(name="mine", moe={"layer": "soft", "slots": 2}, train={"epochs": 1})

    Raises UserError with a sentence for each thing that is wrong.
    """
    if base is not None and not isinstance(base, Config):
        raise UserError(f"make_config got {abridged(repr(base))}; give a configuration, and sections by name.")
    config, problems = configured(dotted(values), base)
    if problems:
        raise UserError(*problems)
    return config


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of sections by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def configured(
    values: Mapping[str, Any], base: Config | None = None, *, words: bool = False, others: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """The configuration with such values, and the sentences.

    Of `base` is kept what the values leave and what their choices still have an option for. `words`: the values are
    words of a command line, whose other options are called `others`.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in ROOTS}
    strange = []
    for name, value in values.items():
        place, _, option = name.rpartition(".")
        if place in given and option:
            given[place][option] = value
        else:
            strange.append(name)
    kept = {name: _values(base, name) for name in ROOTS}
    chosen = {name: kept[name] | given[name] for name in ROOTS}
    sections = {name: Section(name, chosen) for name in ROOTS}
    strange += [s.prefix + option for s in sections.values() for option in given[s.name] if option not in s.fields]
    sentences = [unknown(name, sections, others) for name in strange]
    parts = {name: _part(section, given[name], kept[name], words, sentences) for name, section in sections.items()}
    config = Config(**parts.pop(""), **{name: sections[name].model()(**part) for name, part in parts.items()})
    return config, sentences or list(_together(config))


def wrong_words(words: Mapping[str, str], others: Sequence[str] = ()) -> list[str]:
    """A sentence for each word of a command line that would be wrong whatever the rest of a configuration is."""
    said = []
    for name, text in words.items():
        if declared := everything().get(name):
            option = name.rpartition(".")[2]
            refused = [refusals({option: field}, {option: from_text(field, text)}) for field in declared.values()]
            if all(refused):
                said += [in_words(sentence, name.removesuffix(option)) for sentence in refused[0].values()]
        else:
            said.append(unknown(name, {}, others))
    return said


def _part(section: Section, given: Mapping, kept: Mapping, words: bool, sentences: list[str]) -> dict[str, Any]:
    """The values of a section that its options take; adds a sentence for each other one."""
    fields = section.fields
    new = {name: value for name, value in given.items() if name in fields}
    new = {name: from_text(fields[name], v) if words and isinstance(v, str) else plain(v) for name, v in new.items()}
    values = {name: value for name, value in kept.items() if name in fields} | new
    refused = refusals(fields, values)
    values = {name: value for name, value in values.items() if name not in refused}
    idle = _idle(fields, values)
    values = {name: value for name, value in values.items() if name in new or name not in idle}
    wrong = {name: sentence for name, sentence in refused.items() if name in new}
    right = [name for name in new if name not in wrong]
    conflicting = conflicts(fields, values, right, wrong, section.contradictions, also_defaults=words)
    said = [*wrong.values(), *conflicting]
    sentences += [in_words(sentence, section.prefix) for sentence in said]
    return {name: value for name, value in values.items() if name not in idle}


def _idle(fields: Declared, values: Mapping) -> set[str]:
    """Those that have no effect beside the others: config.json holds none of them."""
    options = types.SimpleNamespace(**{name: values.get(name, field.default) for name, field in fields.items()})
    notes = ((name, note) for name in values for note in fields[name].metadata)
    return {name for name, note in notes if isinstance(note, Needs) and not note.met(options)}


def _values(config: Config | None, name: str) -> dict[str, Any]:
    if config is None:
        return {}
    part = getattr(config, name) if name else config
    return {option: getattr(part, option) for option in type(part).model_fields if name or option not in ROOTS}


def _draws(config: Config) -> bool:
    """Whether two passes of an example in training can differ."""
    router = ROUTERS.get(getattr(config.moe, "router", ""))
    noisy = router is not None and (router.noisy or getattr(config.moe, "jitter", 0) > 0)
    own = getattr(MODELS[config.model.name], "draws", False) or getattr(config.model, "dropout", 0) > 0
    return noisy or own or any(getattr(config.train, name) for name in AUGMENTATIONS)


def _together(config: Config) -> Iterator[str]:
    """A sentence for each contradiction between sections."""
    model, holds = MODELS[config.model.name], DATASETS[config.data.name].holds
    asks = model.reads, getattr(model, "many_tasks", False)
    fitting = [name for name, data in DATASETS.items() if (data.holds, data.many_tasks) == asks]
    if config.data.name not in fitting:
        yield f"model.name is {config.model.name}, which cannot read {config.data.name}; use {' or '.join(fitting)}."
    if config.moe.layer == "multi_gate" and not asks[1]:
        yield (
            f"moe.layer is multi_gate, which has an output for each task, but model.name is {config.model.name}, which"
            " has one task; use dense, or model.name tasks."
        )
    for name in AUGMENTATIONS:
        if holds != "image" and (value := getattr(config.train, name)):
            yield f"train.{name} is {value:g}, but data.name is {config.data.name}; it is for images."
    for name in ("copy_experts", "constant_experts"):
        if (count := getattr(config.moe, name, 0)) and not getattr(model, "experts_return_tokens", True):
            yield (
                f"moe.{name} is {count}, which add a token, but with model.name {config.model.name} experts return"
                " something else; use moe.zero_experts or moe.null_experts."
            )
    if (weight := getattr(config.moe, "assignment_weight", 0)) and not getattr(config.model, "guided", False):
        yield (
            f"moe.assignment_weight is {weight:g}, but nothing is assigned to experts; use model.name flat with"
            " model.guided true, or leave it out."
        )
    if config.train.consistency and not _draws(config):
        yield (
            f"train.consistency is {config.train.consistency:g}, but nothing is random, so that both passes of an"
            " example are the same; give it model.dropout, an augmentation such as train.shift, or a noisy moe.router."
        )
    yield from (in_words(sentence) for sentence in getattr(model, "config_problems", lambda _: ())(config))
    if config.train.tested == "best" and config.data.validation == 0:
        yield (
            "train.tested is best, but data.validation is 0, so that no epoch can be the best; give data.validation"
            " some examples or choose train.tested=last."
        )
    yield from mesh_problems(config)
