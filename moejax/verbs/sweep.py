"""`moejax sweep --config NAME --OPTION A,B …`: a run for every combination of values, then a table and a plot.

moejax sweep --config mnist_tiny --moe.num_experts 4,8,16 --seed 0..2
moejax sweep --config mnist_dense,mnist_sparse,mnist_soft --jobs 2 --out runs/three
moejax sweep --config mnist_tiny --train.learning_rate 0.001,0.003 --print
moejax sweep --config mnist_tiny --data.dir '["/data/a,b", "/data/c"]'

Options are those of moejax run. Values stand between commas; 0..2 is 0,1,2; values that hold commas are given as a JSON
list, and a value that begins with { is one. Each run is a process of its own. After Ctrl-C, or where runs failed, the
same command goes on: what is finished is not made again.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence

from moejax.errors import abridged
from moejax.files import make_folder, one_writer
from moejax.interrupt import ends_at_once
from moejax.verbs.parser import Parser


def parser() -> Parser:
    """What a sweep takes beside the options of its runs."""
    parser = Parser("sweep", __doc__)
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time (default 1)")
    parser.add_argument("--out", metavar="DIR", help="the sweep's folder (default runs/sweep-NAME)")
    parser.add_argument("--print", action="store_true", help="print the commands that are left to run, and stop")
    parser.add_argument("--json", action="store_true", help="a list: each run's values, folder and summary, or command")
    return parser


def main(words: Sequence[str]) -> int:
    """Make the runs, print the table; 1 if some failed or are lost, 128 and the signal's number if one stopped it."""
    asked, of_the_runs = parser().parse_known_args(words)
    with ends_at_once():
        from moejax.sweep import plan

        sweep = plan(of_the_runs, asked.out)
    if asked.print:
        _print([run for run in sweep.runs if not run.is_finished], asked.json)
        return 0
    make_folder(sweep.folder)
    with one_writer(sweep.folder, "give the same command again"):
        return _make(sweep, words, asked)


def _print(left, as_json: bool) -> None:
    commands = [["python", "-m", "moejax.run", *run.command] for run in left]
    if as_json:
        runs = [{"values": dict(run.values), "folder": str(run.folder)} for run in left]
        print(json.dumps([run | {"command": words} for run, words in zip(runs, commands, strict=True)], indent=1))
    else:
        print("".join(f"{shlex.join(words)}\n" for words in commands), end="")


def _make(sweep, words: Sequence[str], asked: argparse.Namespace) -> int:
    from moejax.sweep import results, run_all

    outcome = run_all(sweep.runs, asked.jobs, quiet=asked.json, say=lambda text: print(text, file=_beside(asked.json)))
    finished = sum(run.is_finished for run in sweep.runs)
    if outcome.signal:
        print(
            f"moejax: stopped; {finished} of {len(sweep.runs)} runs are finished. Go on with  moejax sweep"
            f" {shlex.join(words)}",
            file=sys.stderr,
        )
        return 128 + outcome.signal
    _show(sweep, asked.json)
    if asked.jobs > 1:
        print("note: runs shared the machine, so their speeds say nothing.", file=_beside(asked.json))
    for run in outcome.failed:
        print(f"moejax: {run.name} failed, see above; the same command tries again.", file=sys.stderr)
    damaged = results.problems(sweep)
    for sentence in damaged:
        print(f"moejax: {sentence}", file=sys.stderr)
    return 1 if outcome.failed or damaged else 0


def _show(sweep, as_json: bool) -> None:
    from moejax.report.markdown import plain
    from moejax.sweep import results

    files = results.write(sweep)
    if as_json:
        print(json.dumps(results.as_json(sweep), indent=1))
        return
    print(f"\n{plain(*results.tabulate(sweep))}\nMean ± standard deviation over the seeds.")
    print(f"files: {' '.join(files)}\nside by side: moejax compare {shlex.quote(str(sweep.folder))}/*/")


def _beside(as_json: bool):
    """Where progress goes: not between what a script reads."""
    return sys.stderr if as_json else sys.stdout


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{abridged(repr(text))}; it is a number of runs, from 1 to 9,999")
    return int(text)
