"""Fuzzed configurations and command lines: each means a run whose step can be traced, or ends in sentences."""

import json
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic.fields import FieldInfo

from moejax.commandline import configure, parse
from moejax.config import Config, configured, from_json, to_json
from moejax.config.schema import ROOTS, Section, everything
from moejax.errors import UserError
from moejax.options import choice_of, names_of
from moejax.presets import PRESETS
from tests.torture.figure import Figure, figure

SEED = 23
STRANGE = (
    "",
    "none",
    "true",
    "-1",
    "0",
    "1e999",
    "nan",
    "x",
    "1" * 400,
    "[]",
    "{}",
    "\0",
    "🐍",
    "3.5",
    "a,b",
    "--",
    "٣",
)


def torture(quick: bool) -> Iterator[Figure]:
    """What words mean, what is written and read again, and what can be traced."""
    yield _words(300 if quick else 10_000)
    yield _texts(300 if quick else 3000)
    yield _traced(12 if quick else 400)
    yield _stepped(2 if quick else 36)


def _words(cases: int) -> Figure:
    """Command lines: sentences, or a configuration that is read again as it was written."""
    sound, wrong = 0, []
    for seed in range(cases):
        words = command_line(np.random.default_rng([SEED, seed]))
        try:
            config = configure(parse(words))
        except UserError as error:
            if not error.sentences or not all(s.strip() and len(s) < 2000 for s in error.sentences):
                wrong.append(f"seed {seed}: {words}: sentences {error.sentences}")
            continue
        except BaseException:  # whatever escapes is what is looked for
            wrong.append(f"seed {seed}: {words}:\n{traceback.format_exc(limit=-3)}")
            continue
        sound += 1
        if from_json(to_json(config), "config.json") != (config, []):
            wrong.append(f"seed {seed}: {words}: another one when it is read again")
    return figure("command lines", cases, wrong, f"{sound} sound and read again as written, {cases - sound} sentences")


def _texts(cases: int) -> Figure:
    """Texts of config.json with a part of it changed: the same."""
    sound, wrong = 0, []
    for seed in range(cases):
        rng = np.random.default_rng([SEED, 1, seed])
        text = changed(to_json(drawn(rng)), rng)
        try:
            config, problems = from_json(text, "config.json")
            if not problems:
                sound += 1
                if from_json(to_json(config), "config.json") != (config, []):
                    wrong.append(f"seed {seed}: {text}: another one when it is read again")
        except UserError:
            continue
        except BaseException:  # whatever escapes is what is looked for
            wrong.append(f"seed {seed}: {text!r}:\n{traceback.format_exc(limit=-3)}")
    return figure("config.json, changed", cases, wrong, f"{sound} sound, {cases - sound} sentences")


def _traced(cases: int) -> Figure:
    """Configurations whose numbers are small: one step of each is traced, or refused in a sentence."""
    wrong, sentences, traced, seed = [], 0, Counter(), 0
    while traced.total() + sentences < cases:
        seed += 1
        config = drawn(np.random.default_rng([SEED, 2, seed]), small=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trace(config)
        except UserError:
            sentences += 1
        except BaseException:  # whatever escapes is what is looked for
            sentences += 1
            wrong.append(f"seed {seed}: {json.dumps(changes(config))}:\n{traceback.format_exc(limit=-4)}")
        else:
            traced[config.model.name] += 1
    each = ", ".join(f"{count} {name}" for name, count in sorted(traced.items()))
    return figure("one step traced", cases, wrong, f"{each}; {sentences} sentences")


def _stepped(cases: int) -> Figure:
    """Some really run, by the ordinary command."""
    from tests.torture.steps import run_steps  # it draws from here

    found, wrong = run_steps(cases)
    return figure("one step run", cases, wrong, ", ".join(f"{count} {name}" for name, count in sorted(found.items())))


def changes(config: Config) -> dict[str, Any]:
    from moejax.config import flatten, make_config

    default = flatten(make_config())
    return {name: value for name, value in flatten(config).items() if default.get(name) != value}


def command_line(rng: np.random.Generator) -> list[str]:
    """A preset and some options, mostly such as it has, with values within bounds or far out of them."""
    names = list(everything())
    words = ["--config", str(rng.choice([*PRESETS, "mnist"]))] if rng.random() < 0.97 else []
    preset = PRESETS.get(words[1]) if words else None
    own = fields_of(preset.config) if preset else {}
    for _ in range(int(rng.integers(0, 7))):
        name = str(rng.choice(list(own) if own and rng.random() < 0.8 else names))
        field = own.get(name) or next(iter(everything()[name].values()))
        value = (
            str(rng.choice(STRANGE)) if rng.random() < 0.12 else _word(value_of(field, rng, small=rng.random() < 0.5))
        )
        if rng.random() < 0.05:
            name = changed(name, rng)
        words += [f"--{name}={value}"] if rng.random() < 0.3 else [f"--{name}", value]
    if rng.random() < 0.05 and words:
        del words[int(rng.integers(len(words)))]
    return words


def changed(text: str, rng: np.random.Generator) -> str:
    """The text with a letter or a piece of it lost, doubled, or another."""
    at, more = sorted(int(n) for n in rng.integers(0, len(text) + 1, 2))
    if rng.random() < 0.7:
        more = min(at + int(rng.integers(1, 6)), len(text))
    put = str(rng.choice(["", text[at:more] * 2, str(rng.choice(STRANGE)), '"', "}", "null", "-", "9"]))
    return text[:at] + put + text[more:]


def drawn(rng: np.random.Generator, small: bool = False) -> Config:
    """A sound configuration: a preset with other values, those that are refused left out."""
    config = PRESETS[str(rng.choice(list(PRESETS)))].config
    for _ in range(int(rng.integers(1, 12))):
        fields = fields_of(config)
        name = str(rng.choice(list(fields)))
        if small and name.startswith(("data.dir", "init", "log", "parallel", "data.name", "upcycle", "data.limit")):
            continue
        other, problems = configured({name: value_of(fields[name], rng, small)}, config)
        config = config if problems else other
    return config


def fields_of(config: Config) -> dict[str, FieldInfo]:
    """The options that it has, by dotted name."""
    chosen = {name: getattr(config, name).model_dump() for name in ROOTS if name}
    sections = (Section(name, chosen) for name in ROOTS)
    return {section.prefix + name: field for section in sections for name, field in section.fields.items()}


def value_of(field: FieldInfo, rng: np.random.Generator, small: bool) -> Any:
    """A value of that kind, within its bounds unless `small` is False and chance wants otherwise."""
    kinds = str(field.annotation)
    if "None" in kinds and rng.random() < 0.2:
        return None
    if names := names_of(field):
        return str(rng.choice(names))
    if choice := choice_of(field):
        return str(rng.choice(list(choice.table)))
    if "bool" in kinds:
        return bool(rng.integers(2))
    limits = (getattr(note, kind, None) for note in field.metadata for kind in ("ge", "gt", "le", "lt"))
    bounds = [limit for limit in limits if limit is not None] or [0]
    if "int" in kinds:
        low = int(min(bounds))
        if not small and rng.random() < 0.3:
            return int(rng.choice([low - 1, low, int(max(bounds)), int(max(bounds)) + 1]))
        return low + int(rng.choice([0, 1, 2, 3, 5, 7, 8, 15]))
    if "float" in kinds:
        if not small and rng.random() < 0.3:
            return float(rng.choice([min(bounds), max(bounds), -1.0, 1e300]))
        return float(min(bounds) + rng.choice([0.0, 0.01, 0.25, 0.5, 0.9, 1.0, 2.0]))
    return str(rng.choice(["a", "optax.lion", "normalized", "digit,parity", "encoder", "b1=0.9", *STRANGE[:4]]))


def _word(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Step(NamedTuple):
    """A step as a run takes it: `init(key)` is the state, `update(state, batch, key)` the next one and its metrics."""

    init: Callable
    update: Callable
    state: Any  # of shapes alone, as is
    batch: dict[str, Any]


def step_of(config: Config) -> Step:
    """The step of a run of this configuration; UserError if it is refused as the run begins."""
    import jax

    from moejax.models import build_model
    from moejax.training import frozen
    from moejax.training.loop import make_init, make_update, parameter_key
    from moejax.training.optimizer import make_optimizer
    from moejax.training.parallel import Parallel

    batch, answers = batch_of(config)
    steps = 10 * config.train.epochs
    optimizer = make_optimizer(config.train, steps, flat=False)
    init = make_init(lambda rngs: build_model(config, answers, rngs, image_shape=(28, 28)), optimizer)
    state = jax.eval_shape(init, parameter_key(0))
    frozen.check(state.model, config.train.frozen)
    objective = Parallel.of(config, (28, 28)).objective(config)
    skips = config.train.skip_nonfinite > 0
    return Step(init, make_update(objective, optimizer, steps, skips=skips), state, batch)


def trace(config: Config) -> None:
    """Trace the step that a run of this configuration takes, on shapes alone."""
    import jax

    step = step_of(config)
    after, _ = jax.eval_shape(step.update, step.state, step.batch, jax.random.key(0))
    before, then = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (step.state, after))
    if before != then:
        raise RuntimeError("a step changes shapes or dtypes of the state")


def batch_of(config: Config) -> tuple[dict[str, Any], int | tuple[int, ...]]:
    """Shapes of a batch of its data set, and what is to be answered."""
    import jax

    from moejax.data import DATASETS
    from moejax.data.image_tasks import TASKS

    n, data, holds = config.train.batch_size, config.data, DATASETS[config.data.name].holds
    of = {
        "image": {"image": ((28, 28), "uint8"), "domain": ((), "int32")},
        "patches": {"patches": ((4, 50), "float32")},
    }
    if holds == "first":
        of["first"] = dict.fromkeys(("first", "second"), ((data.length,), "int32"))
    if holds == "tokens":
        of["tokens"] = dict.fromkeys(("tokens", "label"), ((data.length,), "int32"))
    of["pieces"] = {"pieces": ((104,), "int32"), "second": ((104,), "bool")}
    answers: int | tuple[int, ...] = {"image": 10, "tokens": getattr(data, "vocabulary", None) or 256}.get(holds, 2)
    fields = {"label": ((), "int32")} | of[holds]
    if DATASETS[data.name].many_tasks:
        names = data.tasks.split(",")
        answers = tuple(TASKS[name].classes for name in names)
        fields["label"] = ((len(names),), "int32")
    return {name: jax.ShapeDtypeStruct((n, *shape), dtype) for name, (shape, dtype) in fields.items()}, answers
