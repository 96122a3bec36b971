"""Every option of a configuration changed: the step, the network, its first parameters or the data are others then.

An option that changes none of these, and is not one of `ELSEWHERE`, has no effect: it must be refused or go.
"""

import random
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from moejax.config import Config, configured, flatten
from moejax.config.schema import everything
from moejax.data import DATASETS, load_of
from moejax.errors import UserError
from moejax.options import names_of
from moejax.presets import PRESETS
from moejax.training.loop import parameter_key
from tests.torture.configs import changes, fields_of, step_of, value_of
from tests.torture.figure import Figure, figure
from tests.torture.files import KINDS, digest_of, splits

SEED = 25
TRIES = 36

# By the beginning of their names, options whose effect is elsewhere, and where.
ELSEWHERE = {
    "name": "the run's folder and report",
    "seed": "what is drawn, by a program of any seed; tests/training",
    "log": "which files metrics go to",
    "init": "the run from which parameters are taken; tests/training/test_beginning.py",
    "upcycle": "how they are taken; the same tests",
    "model.upcycling_noise": "how the copies of published weights differ",
    "data.name": "which data are read",
    "data.dir": "where files are",
    "data.source": "where files are",
    "data.tokenizer": "where files are",
    "train.evaluation_batch": "how many examples are evaluated at once",
    "train.evaluate_every": "after which epochs is validated; tests/training/test_fit.py",
    "train.checkpoints": "which checkpoints stay; the same tests",
    "train.tested": "which checkpoint is tested; the same tests",
    "train.activations": "a table an epoch; the same tests",
    "train.chunk": "how many steps are taken between two looks at signals; it changes no bit",
    "parallel.": "which devices compute what; tests/training/test_parallel.py",
}
# What has to be so for some options to be sound.
BESIDE = {
    "model.own_expert": {"moe.num_experts": 4},
    "model.oracle": {"data.name": "domains", "moe.layer": "sparse", "moe.k": 1},
    "model.hidden": {"model.moe_every": 2},
    "moe.topk_group": {"moe.num_experts": 8, "moe.num_expert_groups": 4, "moe.k": 1},
    "train.optimizer_arguments": {"train.optimizer": "optax.lion"},
}
# Words that mean something for every run; most of those that are drawn are refused.
VALUES = {"train.frozen": "blocks", "train.optimizer_arguments": "b1=0.5"}
# By data set, what makes small files of it here; the others need files that are published.
FILES = {
    "arrays": ("npz", "some.npz"),
    "idx": ("IDX", ""),
    "images": ("pictures", ""),
    "text": ("text", ""),
    "pairs": ("tsv", "some.tsv"),
}
ALONE = ("clusters",)  # needs none


def torture(quick: bool) -> Iterator[Figure]:
    """A figure for the options of each section."""
    options = [(name, words) for name, of_name in everything().items() for words in of_name if not _where(name)]
    draw = random.Random(SEED)
    options = draw.sample(options, 8) if quick else options
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folders = {name: _files(name, Path(place)) for name in FILES}
        unknown = [name for name, words in options if not _can_be_seen(name, words)]
        seen = [(name, words) for name, words in options if _can_be_seen(name, words)]
        wrong = [problem for option in seen if (problem := _problem(*option, folders))]
    aside = f"not tried: {len(ELSEWHERE)} about places, files and devices, {len(unknown)} of published data"
    yield figure("each option changed, by what it comes with", len(seen), wrong, f"each has an effect; {aside}")


def _where(name: str) -> str | None:
    return next((where for beginning, where in ELSEWHERE.items() if name.startswith(beginning)), None)


def _can_be_seen(name: str, words: str) -> bool:
    if len(names_of(everything()[name][words])) == 1:
        return False  # there is but one value
    return not name.startswith("data.") or not words or words.split()[-1] in (*FILES, *ALONE)


def _files(name: str, place: Path) -> str:
    kind, file = FILES[name]
    folder = place / name
    folder.mkdir()
    KINDS[kind][0](folder)
    for test in folder.glob("t10k*"):
        test.unlink()  # data.test_size makes one where there is none
    return str(folder / file)


def _problem(name: str, words: str, folders: Mapping[str, str]) -> str:
    """What to say of an option that no change of its value was seen to have an effect of; empty for others."""
    tried = []
    for config, other in _pairs(name, words):
        if effect(config, name, folders) != effect(other, name, folders):
            return ""
        tried.append((changes(config), changes(other).get(name, "its default")))
        if len(tried) == (12 if name.startswith("data.") else 6):
            break
    return f"{name}, with {words or 'all'}: no effect in {len(tried)} changes: {tried[:1]}"


def _pairs(name: str, words: str) -> Iterator[tuple[Config, Config]]:
    """Sound configurations that differ in that option alone."""
    chosen = BESIDE.get(name, {}) | dict(part.split(" ", 1) for part in words.split(" with ") if part)
    names = ({}, *({"data.name": data} for data in ("domains", *FILES) if "data.name" not in chosen))
    of_all = (configured(chosen | other, preset.config) for preset in PRESETS.values() for other in names)
    own = (*FILES, *ALONE) if name.startswith("data.") else tuple(DATASETS)
    sound = (config for config, wrong in of_all if not wrong)
    bases = [config for config in sound if name in fields_of(config) and config.data.name in own]
    for seed in range(TRIES if bases else 0):
        rng = np.random.default_rng([SEED, seed, *name.encode()])
        config = bases[int(rng.integers(len(bases)))]
        for option in map(str, rng.choice(list(fields_of(config)), seed // 3, replace=False)):
            beside = fields_of(config).get(option)
            if beside and option not in (*chosen, name) and not _where(option) and not option.startswith("data."):
                other, wrong = configured({option: value_of(beside, rng, True)}, config)
                config = config if wrong or name not in fields_of(other) else other
        now, value = flatten(config).get(name), VALUES.get(name) or value_of(fields_of(config)[name], rng, True)
        twice = type(now) is int and seed % 3 == 2  # such as a width, which heads have to divide
        other, wrong = configured({name: 2 * now if twice else value}, config)
        if not wrong and flatten(other).get(name) != flatten(config).get(name):
            yield config, other


def effect(config: Config, name: str, folders: Mapping[str, str]) -> str:
    """What a run of this configuration computes, or says in place of that; of an option of the data, what they are."""
    try:
        return _data(config, folders) if name.startswith("data.") else _program(config)
    except UserError as error:
        return str(error)


def _data(config: Config, folders: Mapping[str, str]) -> str:
    if hasattr(config.data, "dir"):
        config = config.replace(data=dict(dir=folders.get(config.data.name)))
    return digest_of(splits(load_of(config.data, config.seed)))


def _program(config: Config) -> str:
    """What makes the first parameters, takes a step and evaluates, as text without addresses."""
    step = step_of(config)
    programs = [
        jax.make_jaxpr(step.init)(parameter_key(0)),
        jax.make_jaxpr(step.update)(step.state, step.batch, jax.random.key(0)),
        jax.make_jaxpr(lambda model, batch: model(batch, train=False))(step.state.model, step.batch),
    ]
    constants = (c for program in programs for c in program.consts if c.dtype.kind in "fiub")  # no keys
    text = "".join(map(str, programs)) + "".join(np.asarray(c).tobytes().hex() for c in constants)
    return re.sub(r"0x[0-9a-f]{6,}", "", text)
