"""From the words of a command line to a configuration, or to one sentence for each thing that is wrong with them."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from moejax.config import Config, abridged, contradictions, from_json, overlay, path_problem
from moejax.entry import PROGRAM
from moejax.errors import UserError
from moejax.presets import PRESETS

FLAGS = ("help", "print_config")
PROCESSES = ("coordinator", "processes", "process")
PATHS = ("config", "out", "resume")
OPTIONS = (*PATHS, *PROCESSES)


class Arguments(NamedTuple):
    """The command line, taken apart but not yet understood."""

    flags: frozenset[str]
    options: Mapping[str, str]
    fields: Mapping[str, str]  # by dotted name, still text
    problems: Sequence[str]


def parse(words: Sequence[str]) -> Arguments:
    """Split `--name value` and `--name=value`; dashes and underscores in a name are the same."""
    flags, values, problems, rest = set(), {}, [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if word == "-h" or (word.startswith("--") and name in FLAGS):
            if equals:
                problems.append(f"{abridged(repr(word))} has a value, but {word.partition('=')[0]} takes none.")
            else:
                flags.add("help" if word == "-h" else name)
            continue
        if not word.startswith("--") or not name:
            said = abridged(repr(word))
            problems.append(f"{said} is not an option; every option begins with -- and is followed by its value.")
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            problems.append(f"--{name} needs a value after it.")
            continue
        if name in values:
            problems.append(f"--{name} is given twice; leave one out.")
        values[name] = value if equals else rest.pop(0)
    options = {name: values.pop(name) for name in OPTIONS if name in values}
    paths = {name: options[name] for name in PATHS if name in options}
    problems += [f"--{name} is {problem}" for name, path in paths.items() if (problem := path_problem(path))]
    return Arguments(frozenset(flags), options, values, problems)


def configure(arguments: Arguments) -> Config:
    """The configuration that the arguments ask for; UserError with all sentences at once."""
    problems, base = list(arguments.problems), None
    chosen = arguments.options.get("config")
    if chosen is None:
        problems.append(f"--config is missing; give it a preset ({', '.join(PRESETS)}) or a config.json.")
    elif chosen in PRESETS:
        base = PRESETS[chosen].config
    elif not path_problem(chosen) and Path(chosen).is_file():
        base, more = _from_file(chosen)
        problems += more
    elif not path_problem(chosen):
        problems.append(f"--config {chosen} is neither a preset ({', '.join(PRESETS)}) nor a config.json file.")
    config, more = overlay(base or Config(), arguments.fields, options=OPTIONS)
    problems += more
    # Without a base nobody chose the other values: only what was said can be wrong.
    problems += contradictions(config) if base else []
    if problems:
        raise UserError(*problems)
    return config


def _from_file(path: str) -> tuple[Config, list[str]]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror or error}.") from None
    return from_json(text, path)


def check_resume(arguments: Arguments) -> None:
    """UserError if something else than the devices of the run is to change."""
    if arguments.problems:
        raise UserError(*arguments.problems)
    given = (*arguments.options, *arguments.fields)
    others = [n for n in given if n not in ("resume", *PROCESSES) and not n.startswith("parallel.")]
    if others:
        raise UserError(
            f"--resume takes no other argument than --parallel.…, but there is --{others[0]}: a run continues with the"
            " configuration it began with."
        )


def on_these_devices(config: Config, arguments: Arguments) -> Config:
    """The configuration of a run that goes on, with the devices of the arguments; UserError if they make no sense."""
    config, problems = overlay(config, arguments.fields)
    if problems := problems + contradictions(config):
        raise UserError(*problems)
    return config


def print_help() -> None:
    """Usage, presets, and every field with its type, default and meaning."""
    width = max(map(len, PRESETS))
    presets = "\n".join(f"  {name:<{width}}  {preset}" for name, preset in PRESETS.items())
    print(f"""\
usage: {PROGRAM} --config NAME|FILE [--FIELD VALUE ...] [--out DIR]
       {PROGRAM} --resume DIR [--parallel.FIELD VALUE ...]

  --config NAME|FILE  a preset, or the config.json of a run
  --out DIR           the run's folder (default runs/NAME-TIME)
  --resume DIR        continue the run in DIR where it stopped; only the devices may be other ones
  --print-config      print the configuration as JSON and stop
  --coordinator HOST:PORT --processes N --process I
                      this is process I of N, of which number 0 listens there; or --coordinator auto

Presets: data; time on two CPU cores; test accuracy.

{presets}

Fields, with their defaults before a preset is applied:
""")
    import tyro

    with contextlib.suppress(SystemExit):
        valued = (tyro.conf.FlagConversionOff,)  # truth values are given as words, like all others
        tyro.cli(Config, args=["--help"], use_underscores=True, prog=PROGRAM, config=valued)
