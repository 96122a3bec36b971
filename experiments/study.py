"""What the studies share: runs that are collected once, and tables made of nothing but what was collected.

A study is a folder beside this file. Its rows stand in its results.json, each under a key (such as preset and seed)
with what was measured and the machine it was measured on; the table of them in table.md beside it, and in the READMEs.
A row that is there is not measured again, so a study may be interrupted and goes on where it stopped. One that is
deleted is measured anew, and so is one whose options are no longer those that its study asks for. With `--quick` it
makes small versions of a few rows in runs/quick/STUDY, from nothing, in under a minute: to see that it works, not what
it finds. Give the same command twice and two processes share its runs, but not with `--quick`, where each begins anew.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from experiments import readmes
from moejax import manifest, metrics_log
from moejax.commandline import configure, parse
from moejax.config import Config, chosen
from moejax.errors import UserError
from moejax.files import write_whole
from moejax.runs.folder import read_config

ROOT = Path(__file__).parent.parent
IN_A_ROW = "in_a_row"  # a file in the folder of a run whose row was made: if that is deleted, the run begins anew
Row = dict[str, Any]
Key = Mapping[str, Any]


class Study:
    """The rows of one study: `table` makes its Markdown of them."""

    def __init__(self, name: str, table: Callable[[list[Row]], str], quick: bool = False):
        self.name, self.table, self.quick = name, table, quick
        self.folder = ROOT / ("runs/quick" if quick else "experiments") / name
        self.runs = ROOT / "runs" / ("quick/" if quick else "") / f"{name}-runs"
        if quick:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.runs, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = self._read()

    def has(self, key: Key, options: str) -> bool:
        """Whether the row of that key was measured with these options, when last looked."""
        return any(row.get("environment", {}).get("options") == options for row in self.rows if _is_of(row, key))

    def fill(self, keys: Sequence[Key], options: str, measure: Callable[[Sequence[Key]], Sequence[Row]]) -> None:
        """Measure those of these rows that are missing, together, unless another process is about it.

        A row takes the place of an older one of its key. `options`: what they are measured with, as `meaning` says it;
        `measure`: of the missing keys, what each one's row has beside its key.
        """
        name = "-".join(str(value) for value in keys[0].values())
        if all(self.has(key, options) for key in keys):
            return
        print(f"--- {self.name}: {name}", flush=True)
        try:
            with _locked(self.runs / f"{name}.lock", wait=False):
                self.rows = self._read()
                missing = [key for key in keys if not self.has(key, options)]
                for key, row in zip(missing, measure(missing) if missing else (), strict=True):
                    self._add(key, {**key, **row, "environment": row["environment"] | {"options": options}})
        except filelock.Timeout:
            print("another process makes this run", flush=True)

    def _add(self, key: Key, row: Row) -> None:
        """Keep a row beside those of other processes; what is on disk is whole at any moment."""
        with _locked(self.runs / ".lock"):
            self.rows = [*(other for other in self._read() if not _is_of(other, key)), row]
            write_whole(self.folder / "results.json", json.dumps(self.rows, indent=1) + "\n")
            self.write_table()

    def write_table(self) -> None:
        """Make the table of the rows, here and in the READMEs."""
        write_whole(self.folder / "table.md", self.table(self.rows))
        if not self.quick:
            readmes.write(ROOT)

    def _read(self) -> list[Row]:
        file = self.folder / "results.json"
        return _read(file, list) if file.exists() else []


class Run(NamedTuple):
    """One run of the main job: the key of its row, and the words after `python -m moejax.run`."""

    key: Key
    words: Sequence[str]


KEPT = (
    *("test_accuracy", "test_f1", "test_bits_per_byte", "test_loss", "majority", "dropped", "least_load"),
    *("max_violation", "gate_entropy", "experts_by"),
    *("parameters", "flops_per_example", "examples_per_second"),
    *("dataset", "data_source", "train_examples", "test_examples"),
)


def collect(study: Study, runs: Iterable[Run], also: Callable[[Path], Row] = lambda folder: {}) -> None:
    """Make the runs whose rows are missing. `also` reads further measurements out of a run's folder."""
    for run in runs:
        study.fill([run.key], meaning(run.words), lambda _, run=run: [_made(study, run, also)])


def _made(study: Study, run: Run, also: Callable[[Path], Row]) -> Row:
    words, folder = last_of_each(run.words), study.runs / "-".join(str(value) for value in run.key.values())
    seconds = (_main_job_here if study.quick else _main_job)(words, folder)
    result, env = summary(folder), _read(folder / "env.json", dict)
    measured = {name: result[name] for name in KEPT if name in result}
    env["command"] = " ".join(["python -m moejax.run", *map(_anywhere, words)])
    row = {"seconds": seconds, **measured, **also(folder), "environment": env}
    (folder / IN_A_ROW).touch()
    return row


def meaning(words: Sequence[str]) -> str:
    """What the words after `python -m moejax.run` mean, whatever becomes of a preset: see `meaning_of`."""
    return meaning_of(configure(parse(last_of_each(words))))


def meaning_of(config: Config) -> str:
    """The options that are not at their defaults, but for a run's name and where its data lie."""
    options = {name: value for name, value in chosen(config).items() if name not in ("name", "data.dir")}
    return " ".join(f"{name}={_anywhere(str(value))}" for name, value in options.items())


def _is_of(row: Row, key: Key) -> bool:
    return all(row.get(name) == value for name, value in key.items())


def _anywhere(word: str) -> str:
    """A word of a command without this machine's folders: a path here from the root on, another as DIR."""
    return "DIR" if (word := word.replace(f"{ROOT}/", "")).startswith("/") else word


def last_of_each(words: Sequence[str]) -> list[str]:
    """Options with their values, of those given twice the last: a small version says again what the study said."""
    values = dict(zip(words[::2], words[1::2], strict=True))
    return [word for option in values.items() for word in option]


def _main_job(words: Sequence[str], out: Path) -> float:
    """Run the main job, or what is left of it; seconds from outside or, if it was resumed, by its own clock."""
    if not (resumed := _begun(words, out)):
        shutil.rmtree(out, ignore_errors=True)
    command = ["--resume", str(out)] if resumed else [*words, "--out", str(out)]
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", "moejax.run", *command], cwd=ROOT).returncode
    if status:
        raise SystemExit(status)  # it has said why
    seconds = time.perf_counter() - start
    return summary(out)["seconds"] if resumed else round(seconds, 2)


def _begun(words: Sequence[str], out: Path) -> bool:
    """Whether a run of these words has begun there, of which no row was made."""
    try:
        return not (out / IN_A_ROW).exists() and read_config(out) == configure(parse(words))
    except UserError:
        return False


def _main_job_here(words: Sequence[str], out: Path) -> float:
    """Run it in this process, which small versions share: most of their time would go into imports."""
    from moejax import run

    start = time.perf_counter()
    if status := run.main([*words, "--out", str(out)]):
        raise SystemExit(status)
    return round(time.perf_counter() - start, 2)


def fewer(examples: int, evaluated: int = 128) -> list[str]:
    """The words for a small version: train on so many examples, validate and test on a few."""
    return ["--data.limit", str(examples), "--data.evaluation_limit", str(evaluated)]


def summary(folder: Path) -> Row:
    """A finished run's summary.json."""
    return _read(folder / "summary.json", dict)


def log(folder: Path, kind: str) -> list[Row]:
    """The records of a kind ("train", "validation", "test") in a run's metrics.jsonl, in their order."""
    records, problems = metrics_log.read(folder / metrics_log.NAME)
    if problems:
        raise UserError(*problems, f"Delete {folder} to have the run made again.")
    return [record for record in records if record["kind"] == kind]


def _read(file: Path, kind: type) -> Any:
    found, problem = manifest.content(file)
    try:
        value = None if problem else json.loads((found or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{file} is not what was written; delete it, or the run that it belongs to, and start again.")
    return value


def can_load(label: str, name: str, **options: Any) -> bool:
    """Whether that data set is there; if not, it is said why what the label names is left out."""
    from moejax.data import load

    try:
        load(name, **options)
    except UserError as error:
        print(f"{label} is left out:", *error.sentences, sep="\n  ")
        return False
    return True


def million(rows: Sequence[Row], name: str) -> str:
    """The mean in millions; a dash where a row has none, such as the FLOPs of a program with a loop."""
    values = [row.get(name) for row in rows]
    return "–" if None in values else f"{statistics.mean(values) / 1e6:.2f}"


def by_layer(of_runs: Iterable[Sequence[float]], form: str = "{:.2f}") -> str:
    """The mean over runs, a number a layer; a dash if there are no runs."""
    return ", ".join(form.format(statistics.mean(layer)) for layer in zip(*of_runs, strict=True)) or "–"


class _Parser(argparse.ArgumentParser):
    """Of a study's words. Which runs `--quick` makes is fixed, so that it says nothing of other options' runs."""

    def parse_args(self, *words: Any) -> Any:
        asked = super().parse_args(*words)
        given = [name for name, value in vars(asked).items() if value != self.get_default(name)]
        if asked.quick and (others := [name for name in given if name not in ("quick", "folder")]):
            self.error(f"--quick makes small runs of its own choice; leave --{others[0].replace('_', '-')} out")
        return asked


def parser_of(study: str, doc: str) -> argparse.ArgumentParser:
    """A parser with `--quick` and the study's docstring as its help."""
    parser = _Parser(
        prog=f"python -m experiments {study}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few small runs, in under a minute; keeps nothing")
    return parser


@contextlib.contextmanager
def _locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock among processes, which goes with the one that holds it; filelock.Timeout if taken and not to wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file, timeout=-1 if wait else 0):
        yield
