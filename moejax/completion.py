"""What a shell completes after `moejax`: verbs, their options, presets and the names that options take, by shtab."""

import argparse
from collections.abc import Mapping
from typing import Any

from moejax.commandline import FLAGS, OPTIONS
from moejax.errors import UserError
from moejax.presets import PRESETS

# What is typed for an argument that help calls so: the other ones are words that no shell knows.
_FILES = {"RUN": "DIRECTORY", "DIR": "DIRECTORY", "FILE": "FILE", "FILE.png": "FILE", "INPUT": "FILE"}
_OF_RUN = {"out": "DIR", "resume": "RUN", "init": "RUN", "profile": "DIR", "data.dir": "DIR"}
_BASH = """
_moejax() {  # to bash --name=value are three words
  local words=() at=0 i
  for i in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[i]} != = || ${COMP_WORDS[i-1]} != --* ]]; then
      words+=("${COMP_WORDS[i]}")
    elif (( i == COMP_CWORD )); then
      words+=("")
    fi
    (( i == COMP_CWORD )) && at=$(( ${#words[@]} - 1 ))
  done
  COMP_WORDS=("${words[@]}")
  COMP_CWORD=$at
  _shtab_moejax
}
complete -o bashdefault -F _moejax moejax
"""


def script(parsers: Mapping[str, argparse.ArgumentParser], meanings: Mapping[str, str], shell: str) -> str:
    """The program for that shell to read, of the parser and the meaning of each verb; UserError without shtab."""
    try:
        import shtab
    except ImportError:
        raise UserError("Completion is made by shtab, which is not installed: pip install shtab.") from None
    root = argparse.ArgumentParser(prog="moejax")
    verbs = root.add_subparsers(dest="verb")
    for name, parser in parsers.items():
        verb = verbs.add_parser(name, parents=[parser], add_help=False, description=meanings[name], help=meanings[name])
        for action in verb._actions:
            if kind := _FILES.get(str(action.metavar)):
                action.complete = getattr(shtab, kind)  # type: ignore[attr-defined]
            if action.choices is not None:
                action.choices = list(action.choices)  # shtab takes those of a dict for verbs
    return shtab.complete(root, shell) + (_BASH if shell == "bash" else "")


def parser_of_a_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, as the main job's: its help may be asked of options and sections."""
    from moejax.config.schema import ROOTS, everything

    add_options_of_a_run(parser)
    asked = parser._option_string_actions["--help"]
    asked.nargs, asked.choices = "*", [*filter(None, ROOTS), *everything()]
    return parser


def add_options_of_a_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, with all that the main job takes and it has not; only to be completed, not to parse."""
    from moejax.config.schema import everything
    from moejax.options import names_of

    def add(name: str, **more: Any) -> None:
        if name in _OF_RUN:
            more["metavar"] = _OF_RUN[name]
        if f"--{name}" not in parser._option_string_actions:
            parser.add_argument(f"--{name}", **more)

    for flag in FLAGS:
        add(flag.replace("_", "-"), action="store_true")
    parser.add_argument("--config", choices=list(PRESETS), help="a preset, a config.json, or a run's folder")
    for name in OPTIONS:
        add(name)
    for name, declared in everything().items():
        fields = list(declared.values())
        names = dict.fromkeys(word for field in fields for word in names_of(field))
        if any(field.annotation is bool for field in fields):
            names |= dict.fromkeys(("true", "false"))
        meaning = (fields[0].description or "").replace("%", "%%")
        add(name, choices=list(names) or None, help=meaning)
    return parser
