"""`--help`: the presets, then every option by what it belongs to; `--help moe.router` for one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill

from pydantic.fields import FieldInfo

from moejax.config.schema import everything
from moejax.entry import PROGRAM
from moejax.errors import UserError, did_you_mean
from moejax.options import choice_of, expected, meaning, shown
from moejax.presets import listed

_USAGE = f"""\
usage: {PROGRAM} --config NAME|FILE|RUN [--OPTION VALUE ...] [--out DIR]
       {PROGRAM} --init RUN [--upcycle] [--config NAME|FILE|RUN] [--OPTION VALUE ...] [--out DIR]
       {PROGRAM} --resume RUN [--train.epochs N] [--train.skip_nonfinite N] [--parallel.OPTION VALUE ...]
       {PROGRAM} --help [OPTION ...]

  --config NAME       a preset, a config.json, or the folder of a run that has one
  --init RUN          begin from the parameters of that run, with its configuration unless --config names another
  --upcycle           its one expert becomes each of this run's experts
  --out DIR           the run's folder (default runs/NAME-TIME)
  --resume RUN        continue the run in that folder where it stopped, on these devices; also a finished run, with
                      more --train.epochs: its learning rate is from then on that of a run of so many
  --profile DIR       trace ten steps into DIR by JAX's profiler, once the programs are compiled and warm
  --debug.nans        where a step is not finite, take it again operation by operation, and name the first that makes a
                      NaN, with its line; on one device. Costs nothing before that, then seconds to minutes
  --print-config      print the configuration as JSON and stop
  --coordinator HOST:PORT --processes N --process I
                      this is process I of N, of which number 0 listens there; or --coordinator auto
"""


def help_text(topics: Sequence[str] = ()) -> str:
    """All of it, or the part on some options or sections; UserError for a topic that is none."""
    if not topics:
        head = f"{_USAGE}\nPresets: data; time on two CPU cores; test accuracy.\n\n{listed()}\n"
        return "\n".join([head, *_sections(everything())])
    return "\n".join(part for topic in topics for part in _on(topic.removeprefix("--").replace("-", "_")))


def _on(topic: str) -> Iterator[str]:
    options = everything()
    if topic in options:
        for field, brought in _declarations(topic, options[topic]):
            yield from _option(topic, field, brought, tables=True)
        return
    section = {name: declared for name, declared in options.items() if name.startswith(f"{topic}.")}
    if topic.replace("_", "-") in re.findall(r"--([\w.-]+)", _USAGE):
        yield _USAGE
        return
    if not section:
        near = did_you_mean(topic, options)
        raise UserError(f"There is no option {topic}" + (f"; did you mean {near}?" if near else "."))
    yield from _sections(section)


def _sections(options: Mapping[str, Mapping[str, FieldInfo]]) -> Iterator[str]:
    """Options under the choices that bring them."""
    groups: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, declared in options.items():
        section = name.rpartition(".")[0]
        for field, brought in _declarations(name, declared):
            title = f"{section}, with {' or '.join(brought)}" if all(brought) else section or "all runs"
            groups.setdefault(title, []).append((name, field))
    for title, of_group in groups.items():
        yield f"\n{title}:\n"
        for name, field in of_group:
            yield from _option(name, field)


def _declarations(name: str, declared: Mapping[str, FieldInfo]) -> list[tuple[FieldInfo, list[str]]]:
    """What there is to say of an option, each with the choices that bring it so: two may declare it differently."""
    found: dict[str, tuple[FieldInfo, list[str]]] = {}
    for words, field in declared.items():
        found.setdefault("\n".join(_option(name, field)), (field, []))[1].append(words)
    return list(found.values())


def _option(name: str, field: FieldInfo, belongs: Sequence[str] = (), *, tables: bool = False) -> Iterator[str]:
    yield f"  --{name}  {expected(field)} (default {shown(field.default)})"
    yield fill(field.description or "", 110, initial_indent="      ", subsequent_indent="      ")
    if tables and any(belongs):
        yield f"      belongs to {' or to '.join(filter(None, belongs))}"
    if tables and (choice := choice_of(field)):
        width = max(map(len, choice.table))
        yield from (f"      {entry:<{width}}  {meaning(value)}" for entry, value in choice.table.items())
