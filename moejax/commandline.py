"""From the words of a command line to a configuration, or to one sentence for each thing that is wrong with them."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moejax import manifest
from moejax.errors import UserError, abridged, path_problem
from moejax.presets import PRESETS

if TYPE_CHECKING:
    from moejax.config import Config

DEBUG_NANS = "debug.nans"
FLAGS = ("help", "print_config", DEBUG_NANS)
SWITCHES = ("upcycle",)  # options that may stand without `true`
PROCESSES = ("coordinator", "processes", "process")
PATHS = ("config", "out", "resume", "profile")
OPTIONS = (*PATHS, *PROCESSES)


class Arguments(NamedTuple):
    """The command line, taken apart but not yet understood."""

    flags: frozenset[str]
    topics: Sequence[str]  # what help is asked of
    options: Mapping[str, str]
    fields: Mapping[str, str]  # by dotted name, still text
    problems: Sequence[str]


def parse(words: Sequence[str]) -> Arguments:
    """Split `--name value` and `--name=value`; dashes and underscores in a name are the same."""
    flags, topics, values, meant, problems, rest = set(), [], {}, {}, [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        alone = not equals and (not rest or rest[0].startswith("--"))  # without a value
        if word == "-h" or (word.startswith("--") and name in FLAGS):
            if equals:
                problems.append(f"{abridged(repr(word))} has a value, but {word.partition('=')[0]} takes none.")
            else:
                flags.add("help" if word == "-h" else name)
        elif flags == {"help"} and name and (alone if word.startswith("--") else not word.startswith("-")):
            topics.append(word)
        elif word in PRESETS:
            problems.append(f"{word} is a preset; write --config {word}.")
            meant["config"] = word
        elif not word.startswith("--") or not name:
            problems.append(
                f"{abridged(repr(word))} is not an option; every option begins with -- and is followed by its value."
            )
        elif alone and name in SWITCHES:
            values[name] = "true"
        elif alone:
            near = difflib.get_close_matches(name, FLAGS, n=1)
            there = f"There is no --{name}; did you mean --{near[0].replace('_', '-')}?" if near else None
            problems.append(there or f"--{name} needs a value after it.")
        else:
            if name in values:
                problems.append(f"--{name} is given twice; leave one out.")
            values[name] = value if equals else rest.pop(0)
    values = meant | values
    options = {name: values.pop(name) for name in OPTIONS if name in values}
    paths = {name: options[name] for name in PATHS if name in options}
    problems += [f"--{name} is {problem}." for name, path in paths.items() if (problem := path_problem(path))]
    return Arguments(frozenset(flags), topics, options, values, problems)


def configure(arguments: Arguments) -> "Config":
    """The configuration that the arguments ask for; UserError with all sentences at once."""
    problems, base = list(arguments.problems), None
    chosen = arguments.options.get("config")
    if chosen is None and (begins_from := arguments.fields.get("init")) and not path_problem(begins_from):
        arguments = arguments._replace(fields={"upcycle": "false", **arguments.fields})
        base, more = _from_run(begins_from)
        problems += more
    elif chosen is None:
        problems.append(f"--config is missing; give it a preset ({', '.join(PRESETS)}) or a config.json.")
    elif chosen not in PRESETS and not path_problem(chosen):
        base, more = _from_path(chosen)
        problems += more
    if problems and not arguments.fields:
        raise UserError(*problems)  # before JAX is imported
    from moejax.config import configured, wrong_words

    if chosen in PRESETS:
        base = PRESETS[chosen].config
    if base is None:  # nobody chose the other values
        raise UserError(*problems, *wrong_words(arguments.fields, OPTIONS))
    config, more = configured(arguments.fields, base, words=True, others=OPTIONS)
    if problems := problems + more:
        raise UserError(*problems)
    return config


def _from_run(path: str) -> tuple["Config | None", list[str]]:
    """The configuration of the run from which another one begins."""
    from moejax.runs.folder import read_config

    try:
        return read_config(Path(path)), []
    except UserError as error:
        return None, list(error.sentences)


def _from_path(path: str) -> tuple["Config | None", list[str]]:
    """What a config.json holds, or the one of a run's folder."""
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        near = difflib.get_close_matches(path, PRESETS, n=1)
        mean = f"; did you mean {near[0]}?" if near else f" ({', '.join(PRESETS)})."
        return None, [f"--config {path} is neither a config.json, nor a run's folder, nor a preset{mean}"]
    from moejax.config import from_json

    content, problem = manifest.content(file)
    if content is None:
        copy = "; if you have changed it on purpose, give a copy of it that lies in another folder"
        raise UserError(f"--config {file} {problem}{copy * (problem == manifest.CHANGED)}.")
    return from_json(content.decode("utf-8", errors="replace"), path)


def check_resume(arguments: Arguments) -> None:
    """UserError if something else of the run is to change than its devices and its length."""
    if arguments.problems:
        raise UserError(*arguments.problems)
    given = (*arguments.options, *arguments.fields)
    may = ("train.epochs", "train.skip_nonfinite", "profile", *PROCESSES)
    others = [n for n in given if n not in ("resume", *may) and not n.startswith("parallel.")]
    if others:
        taken = ", ".join(f"--{name}" for name in may)
        raise UserError(
            f"--resume takes no other argument than --parallel.…, {taken}, but there is --{others[0]}: a run continues"
            " with the configuration it began with; to begin another one from its parameters, use --init."
        )


def going_on(config: "Config", arguments: Arguments) -> "Config":
    """The configuration of a run that goes on, as the arguments change it; UserError if they make no sense."""
    from moejax.config import configured

    config, problems = configured(arguments.fields, config, words=True)
    if problems:
        raise UserError(*problems)
    return config
