"""`moejax completion bash|zsh`: a program for the shell, which then completes verbs, options and their names.

eval "$(moejax completion bash)"                          in ~/.bashrc
moejax completion zsh > ~/.zfunc/_moejax                  where ~/.zshrc has  fpath+=~/.zfunc  before  compinit
"""

from collections.abc import Sequence

from moejax.verbs.parser import Parser

SHELLS = ("bash", "zsh")


def parser() -> Parser:
    """A shell."""
    parser = Parser("completion", __doc__)
    parser.add_argument("shell", choices=SHELLS, help="whose program to print")
    return parser


def main(words: Sequence[str]) -> None:
    """Print it."""
    asked = parser().parse_args(words)
    from moejax.completion import add_options_of_a_run, parser_of_a_run, script
    from moejax.data.places import fetchable
    from moejax.verbs import VERBS, meaning, module

    parsers = {verb: module(verb).parser() for verb in VERBS if verb != "run"}
    parsers = {"run": parser_of_a_run(Parser("run", None))} | parsers
    add_options_of_a_run(parsers["sweep"])
    for action in parsers["data"]._actions:
        if action.metavar == "NAME":
            action.choices = fetchable()
    print(script(parsers, {verb: meaning(verb) for verb in VERBS}, asked.shell))
