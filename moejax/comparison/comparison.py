"""Runs side by side as one value: scores, pairs, and the options that differ."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from moejax.comparison.statistics import interval, mcnemar
from moejax.errors import UserError, printable, quoted
from moejax.predictions import Predictions
from moejax.report.record import Record, differences, number, read


class Key(str):
    """The letter that stands for a run."""


class TextScore(NamedTuple):
    """Of a language model on test. Tokens of one text are no independent examples, so there is no interval and no p."""

    bits_per_byte: float
    accuracy: float  # of the next token


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    key: Key
    name: str
    record: Record

    @property
    def predictions(self) -> Predictions | None:
        return self.record.predictions

    @property
    def dataset(self) -> str:
        data = self.record.config.get("data")
        return str(self.record.summary.get("dataset") or (data.get("name", "") if isinstance(data, dict) else ""))

    @property
    def text_score(self) -> TextScore | None:
        """That of a language model that was tested."""
        bits = number(self.record.summary.get("test_bits_per_byte"))
        known = self.record.is_text and not math.isnan(bits)
        return TextScore(bits, self.record.tested("accuracy")) if known else None

    @property
    def examples(self) -> int | None:
        """How many it was tested on, as its summary or else its answers tell; None if neither is there."""
        count = number(self.record.summary.get("test_examples"))
        if count > 0:
            return int(count)
        return len(self.predictions.right) if self.predictions else None


class Score(NamedTuple):
    """Of one run on test; `task` is empty where there is one alone."""

    task: str
    accuracy: float
    low: float  # Wilson's interval, 95 %
    high: float
    wrong: int
    examples: int


class Pair(NamedTuple):
    """Two runs on the same test examples."""

    first: Key
    second: Key
    task: str
    only_first: int  # examples that it alone got right
    only_second: int
    p: float  # McNemar's, exact, two-sided


@dataclass(frozen=True)
class Comparison:
    """Runs that were tested on the same data set. Keys of `scores` are those of the runs that were tested."""

    runs: tuple[Run, ...]
    scores: dict[str, list[Score]]
    text_scores: dict[str, TextScore]
    pairs: tuple[Pair, ...]
    differences: dict[str, list[str]]  # the value of each run, in their order
    remarks: tuple[str, ...]

    @property
    def is_text(self) -> bool:
        """Whether they are runs of language models."""
        return self.runs[0].record.is_text

    def as_json(self) -> dict[str, Any]:
        """All of it but the curves."""
        return {
            "runs": [
                {
                    "key": run.key,
                    "folder": str(run.record.folder),
                    "name": run.name,
                    "scores": [score._asdict() for score in self.scores.get(run.key, [])],
                    **({"text_score": self.text_scores[run.key]._asdict()} if run.key in self.text_scores else {}),
                    "summary": run.record.summary,
                }
                for run in self.runs
            ],
            "interval": None if self.is_text else "Wilson, 95 %",
            "pairs": [pair._asdict() for pair in self.pairs],
            "differences": self.differences,
            "remarks": list(self.remarks),
        }


def compare(folders: Sequence[Path]) -> Comparison:
    """Read the runs and set them side by side, those of one data set.

    The data are those of the first run that kept its answers, else of the first; runs of other data are named in
    `remarks` and left out. UserError if a folder holds no run, or fewer than two runs can be compared.
    """
    found = _read(folders)
    basis = next((run for run in found if run.predictions), found[0])
    other = [_other_data(run, basis) for run in found]
    left_out = tuple(filter(None, other))
    same = [run for run, sentence in zip(found, other, strict=True) if not sentence]
    if len(same) < 2:
        raise UserError("There are no two runs of the same data to compare.", *left_out)
    runs = tuple(replace(run, key=_key(i)) for i, run in enumerate(same))
    return Comparison(
        runs,
        {run.key: scores for run in runs if (scores := list(_scores(run)))},
        {run.key: score for run in runs if (score := run.text_score)},
        tuple(pair for first, second in combinations(runs, 2) for pair in _pairs(first, second)),
        differences([run.record.config for run in runs]),
        (*left_out, *dict.fromkeys(_remarks(runs))),
    )


def _read(folders: Sequence[Path]) -> list[Run]:
    resolved = [folder.resolve() for folder in folders]
    problems = [f"{folder} is given twice; leave one out." for folder in _twice(resolved, folders)]
    names = [printable(folder.name) for folder in resolved]
    records: list[Record] = []
    for folder in folders:
        try:
            records.append(read(folder))
        except UserError as error:
            problems += error.sentences
    if len(folders) < 2:
        problems.append(f"{folders[0] if folders else 'Nothing'} alone cannot be compared; give two runs or more.")
    if problems:
        raise UserError(*problems)
    return [
        Run(_key(i), name if names.count(name) == 1 else printable(str(folder)), record)
        for i, (name, folder, record) in enumerate(zip(names, folders, records, strict=True))
    ]


def _twice(resolved: Sequence[Path], folders: Sequence[Path]) -> Iterator[Path]:
    yield from (folder for i, folder in enumerate(folders) if resolved[i] in resolved[:i])


def _key(number: int) -> Key:
    """A to Z, then A2 to Z2 and so on."""
    turn, letter = divmod(number, len(ascii_uppercase))
    return Key(ascii_uppercase[letter] + (str(turn + 1) if turn else ""))


def _other_data(run: Run, basis: Run) -> str:
    """Why it is not compared with the basis; empty if it is."""
    if run.dataset != basis.dataset:
        return f"{run.name} is left out: its data set is {run.dataset}, that of {basis.name} is {basis.dataset}."
    digests = {r.predictions.test_sha256 for r in (run, basis) if r.predictions}
    counts = {r.examples for r in (run, basis)} - {None}
    if len(digests) > 1 or len(counts) > 1:
        here, there = (f"{r.examples:,}" for r in (run, basis))
        return (
            f"{run.name} is left out: it was tested on {here} other examples of {run.dataset} than the {there} of"
            f" {basis.name}."
        )
    return ""


def _scores(run: Run) -> Iterator[Score]:
    """A score a task; nothing of text, and if the run was not tested."""
    if run.record.is_text:
        return
    of_tasks = run.record.of_tasks
    for task, accuracy in (of_tasks if len(of_tasks) > 1 else {"": run.record.tested("accuracy")}).items():
        if run.examples and 0 <= accuracy <= 1:
            right = round(accuracy * run.examples)
            yield Score(task, accuracy, *interval(right, run.examples), run.examples - right, run.examples)


def _pairs(first: Run, second: Run) -> Iterator[Pair]:
    """A pair a task; nothing unless both kept their answers, and nothing of text."""
    if first.record.is_text or not (first.predictions and second.predictions):
        return
    a, b = (p.right.reshape(len(p.right), -1) for p in (first.predictions, second.predictions))
    tasks = list(first.record.of_tasks) if a.shape[1] > 1 else [""]
    if a.shape != b.shape or len(tasks) != a.shape[1]:
        return
    for task, mine, yours in zip(tasks, a.T, b.T, strict=True):
        only = int(np.count_nonzero(mine & ~yours)), int(np.count_nonzero(yours & ~mine))
        yield Pair(first.key, second.key, task, *only, mcnemar(*only))


def _remarks(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        yield from (f"{run.key}: {remark}" for remark in run.record.remarks)
    for run in runs:
        notes = run.record.summary.get("notes")
        yield from (str(note) for note in (notes if isinstance(notes, list) else []))
    for run in runs:
        if run.examples and not run.predictions and not run.record.is_text:
            yield (
                f"{run.key} has no answers to the test examples, as older runs kept none, so no p is told of it:"
                f" delete {run.record.folder / 'summary.json'}, and moejax run --resume {quoted(run.record.folder)}"
                " tests it again."
            )
    machines = [(r.record.environment.get("device"), r.record.environment.get("device_count", 1)) for r in runs]
    if len(set(map(str, machines))) > 1:
        said = ", ".join(f"{run.key} {count} × {device}" for run, (device, count) in zip(runs, machines, strict=True))
        yield f"Speeds were measured on different devices and cannot be compared: {said}."
