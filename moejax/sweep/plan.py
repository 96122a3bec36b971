"""Which runs a sweep makes: every combination of its options' values, each a command and a folder, checked at once."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moejax.commandline import Arguments, configure, parse
from moejax.errors import UserError, abridged
from moejax.files import place_for
from moejax.sweep.axes import MOST, values_of

if TYPE_CHECKING:
    from moejax.config import Config

NOT_HERE = ("resume", "coordinator", "processes", "process")


class Planned(NamedTuple):
    """One run."""

    values: Mapping[str, str]  # of the options that vary, by name
    words: tuple[str, ...]  # after `python -m moejax.run`, to begin it
    folder: Path

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return _name(self.values) or "one run"

    @property
    def is_finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    @property
    def command(self) -> tuple[str, ...]:
        """The words that begin it, or go on with it."""
        if (self.folder / "config.json").exists():
            return _option("resume", str(self.folder))
        return (*self.words, *_option("out", str(self.folder)))


class Sweep(NamedTuple):
    """All of them, in the order in which they are made."""

    folder: Path
    axes: Mapping[str, Sequence[str]]  # the options that vary, and their values
    runs: tuple[Planned, ...]

    @property
    def varied(self) -> list[str]:
        """The options that vary, but the seed, over which results are averaged."""
        return [name for name in self.axes if name != "seed"]


def plan(words: Sequence[str], out: str | None = None) -> Sweep:
    """The sweep of these words, which are those of the main job, with several values for some options.

    UserError with a sentence for each thing that is wrong with the words, with any of the configurations, or with what
    a folder already holds.
    """
    arguments = parse(words)
    problems = list(arguments.problems)
    given = {**arguments.options, **arguments.fields}
    problems += [f"A sweep takes no --{name}; leave it out." for name in (*NOT_HERE, "out") if name in given]
    for name in arguments.flags:
        fix = "use --print" if name == "print_config" else "leave it out"
        problems.append(f"A sweep takes no --{name.replace('_', '-')}; {fix}.")
    values: dict[str, list[str]] = {}
    for name, word in given.items():
        try:
            values[name] = values_of(word)
        except ValueError as error:
            problems.append(f"--{name} is {abridged(repr(word))}, {error}.")
    if (count := math.prod(map(len, values.values()))) > MOST:
        raise UserError(*problems, f"These are {count:,} runs; a sweep has at most {MOST:,}.")
    axes = {name: options for name, options in values.items() if len(options) > 1}
    combinations = [dict(zip(values, some, strict=True)) for some in itertools.product(*values.values())]
    configs, wrong = _checked(combinations, arguments, axes)
    if problems := problems + (wrong or list(_alike(configs, combinations, axes))):
        raise UserError(*problems)
    names = "-".join(dict.fromkeys(config.name for config in configs))
    own = f"runs/sweep-{names.encode()[:80].decode(errors='ignore')}"
    folder = place_for("--out", own if out is None else out, folder=True)
    runs = tuple(_planned(one, axes, folder) for one in combinations)
    if problems := [s for run, config in zip(runs, configs, strict=True) for s in _another(run.folder, config)]:
        raise UserError(*problems)
    return Sweep(folder, axes, runs)


def _checked(
    combinations: Sequence[Mapping[str, str]], arguments: Arguments, axes: Mapping
) -> tuple[list["Config"], list[str]]:
    """The configuration of each; each sentence about them once, with the combinations that it is said of."""
    configs: list[Config] = []
    said: dict[str, list[str]] = {}
    for one in combinations:
        options, fields = (
            {name: one[name] for name in part if name in one} for part in (arguments.options, arguments.fields)
        )
        try:
            configs.append(configure(Arguments(frozenset(), (), options, fields, ())))
        except UserError as error:
            for sentence in error.sentences:
                said.setdefault(sentence, []).append(_name({name: one[name] for name in axes}))
    return configs, [_of(sentence, names, len(combinations)) for sentence, names in said.items()]


def _alike(configs: Sequence["Config"], combinations: Sequence[Mapping[str, str]], axes: Mapping) -> Iterator[str]:
    """A sentence if two combinations are one run, since their values are spelled differently: 8 and 08."""
    seen: dict[Config, str] = {}
    for config, one in zip(configs, combinations, strict=True):
        name = _name({axis: one[axis] for axis in axes})
        if (first := seen.setdefault(config, name)) != name:
            yield f"{name} is the same run as {first}; leave one out."
            return


def _of(sentence: str, names: Sequence[str], count: int) -> str:
    if len(names) == count:
        return sentence
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{sentence} (of {names[0]}{more})"


def _planned(one: Mapping[str, str], axes: Mapping, folder: Path) -> Planned:
    varied = {name: one[name] for name in axes}
    words = tuple(word for name, value in one.items() for word in _option(name, value))
    return Planned(varied, words, folder / (_folder_name(varied) or "run"))


def _option(name: str, value: str) -> tuple[str, ...]:
    """The words of an option; in one where its value looks like another one."""
    return (f"--{name}={value}",) if value.startswith("--") else (f"--{name}", value)


def _name(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def _folder_name(values: Mapping[str, str]) -> str:
    """The name of the combination, if every file system has such a name; else a part of it, and a digest."""
    name = _name(values)
    plain = re.sub(r"[^\w.,=+-]", "_", name, flags=re.ASCII)[:150]
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return plain if plain == name else f"{plain[:120]}-{digest}"


def _another(folder: Path, config: "Config") -> Iterator[str]:
    """A sentence if the folder holds a run of another configuration; the devices may be other ones."""
    from moejax.config import flatten
    from moejax.runs.folder import read_config

    if not (folder / "config.json").exists():
        return
    try:
        there = read_config(folder)
    except UserError as error:
        yield from error.sentences
        return
    then, now = flatten(there), flatten(config)
    other = [n for n in then.keys() | now.keys() if then.get(n) != now.get(n) and not n.startswith("parallel.")]
    for name in sorted(other)[:1]:
        yield (
            f"{folder} holds a run whose {name} is {then.get(name)}, not {now.get(name)}; choose another --out, or"
            " delete that folder."
        )
