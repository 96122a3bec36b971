"""A comparison as tables of words: the same for a terminal and for the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from moejax.comparison.comparison import Comparison, Run, Score
from moejax.report.record import ABSENT, number


class Table(NamedTuple):
    """A heading, columns, and what to know when reading them."""

    name: str
    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str


class Fact(NamedTuple):
    """A number of summary.json: its name there, its heading, and how it is written."""

    name: str
    title: str
    form: str
    scale: float = 1.0


LOAD = (
    Fact("least_load", "least load", "{:.2f}"),
    Fact("max_violation", "MaxVio", "{:.2f}"),
    Fact("dead_experts", "dead", "{:.0f}"),
    Fact("dropped", "dropped", "{:.2%}"),
)
COST = (
    Fact("parameters", "parameters", "{:,.0f}"),
    Fact("flops_per_example", "MFLOP/example", "{:,.2f}", 1e-6),
    Fact("examples_per_second", "examples/s", "{:,.0f}"),
    Fact("seconds", "training, s", "{:,.1f}"),
)
_ACCURACY = "95 %: Wilson's interval, where the accuracy on other examples of this kind lies with 95 % confidence."
_BITS = (
    "Bits a byte: what the test's text costs to foretell, the less the better; accuracy: how often the most probable "
    "token is the next. No interval and no p: tokens of one text are no independent examples. Other seeds tell chance."
)
_FEW = 4  # runs, of which every pair has a line
_LINES = "Test examples that one of the two alone got right, and p."
_SQUARE = "p of the run of the line and that of the column; --json has the examples that each alone got right."
_MCNEMAR = (
    "p is McNemar's exact one: how often chance alone shares out so unequally the examples that one alone got right. "
    "It speaks of these networks; other seeds may turn it round."
)
_LOAD = (
    "Over all test examples. Least load and MaxVio are the worst layer's, dead is the sum of all layers, dropped their "
    "mean. Least load: 1 is an equal share, 0 an expert that gets nothing; MaxVio: 0 is an equal share, 1 an expert "
    "with twice that."
)
_COST = "FLOPs of a forward pass, where the program can tell them; speed: the median over training."


def tables(comparison: Comparison) -> list[Table]:
    """All that there is to say in words."""
    runs, several = comparison.runs, any(len(scores) > 1 for scores in comparison.scores.values())
    found = [
        Table("accuracy", "Test scores", *_first(comparison, several)),
        Table("pairs", "The same test examples", *_pairs(comparison, several)),
        Table("load", "Load of the experts", *_facts(runs, LOAD), _LOAD),
        Table("cost", "Size and speed", *_facts(runs, COST), _COST),
        Table(
            "differences",
            "What differs",
            ["option", *(run.key for run in runs)],
            [[name, *values] for name, values in comparison.differences.items()],
            f"All other options are the same. {ABSENT}: the run has no such option.",
        ),
    ]
    return [table for table in found if table.lines]


def p_text(p: float) -> str:
    """Two digits, of very small ones that they are."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _first(comparison: Comparison, several: bool) -> tuple[list[str], list[list[str]], str]:
    return (*_bits(comparison), _BITS) if comparison.is_text else (*_scores(comparison, several), _ACCURACY)


def _bits(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    lines = []
    for run in comparison.runs:
        score = comparison.text_scores.get(run.key)
        said = [f"{score.bits_per_byte:.3f}", f"{score.accuracy:.2%}"] if score else ["not tested", ABSENT]
        lines.append([run.key, run.name, *said])
    return ["", "run", "bits a byte", "accuracy"], lines


def _scores(comparison: Comparison, several: bool) -> tuple[list[str], list[list[str]]]:
    header = ["", "run", *(["task"] if several else []), "accuracy", "95 %", "wrong", "loss"]
    lines = []
    for run in comparison.runs:
        loss = run.record.tested("loss")
        for score in comparison.scores.get(run.key, [None]):
            task = [score.task if score else ABSENT] if several else []
            lines.append([run.key, run.name, *task, *_score(score), ABSENT if math.isnan(loss) else f"{loss:.4f}"])
    return header, lines


def _score(score: Score | None) -> list[str]:
    if score is None:
        return ["not tested", ABSENT, ABSENT]
    interval = f"{100 * score.low:.2f} to {100 * score.high:.2f}"
    return [f"{score.accuracy:.2%}", interval, f"{score.wrong:,} of {score.examples:,}"]


def _pairs(comparison: Comparison, several: bool) -> tuple[list[str], list[list[str]], str]:
    """A line a pair; of many runs, p alone, in a square. And what to know of it."""
    pairs, runs = comparison.pairs, comparison.runs
    more = ""
    if len(pairs) > 1:
        by_chance = 0.05 * len(pairs)
        more = f" Each p is of its pair alone: of {len(pairs)} pairs, chance puts {by_chance:.2g} below 0.05."
    if len(runs) > _FEW and not several:
        p_of = {(pair.first, pair.second): p_text(pair.p) for pair in pairs}
        lines = [[one.key, *(p_of.get((one.key, other.key), "") for other in runs)] for one in runs]
        return ["", *(run.key for run in runs)], lines if pairs else [], f"{_SQUARE} {_MCNEMAR}{more}"
    header = ["", "", *(["task"] if several else []), "first alone", "second alone", "p"]
    lines = [
        [a, b, *([task] if several else []), f"{first:,}", f"{second:,}", p_text(p)]
        for a, b, task, first, second, p in pairs
    ]
    return header, lines, f"{_LINES} {_MCNEMAR}{more}"


def _facts(runs: Sequence[Run], facts: Sequence[Fact]) -> tuple[list[str], list[list[str]]]:
    """A line a run; facts that no run has are left out."""
    values = {fact: [number(run.record.summary.get(fact.name)) for run in runs] for fact in facts}
    known = {fact: column for fact, column in values.items() if not all(map(math.isnan, column))}
    columns = [
        [ABSENT if math.isnan(value) else fact.form.format(fact.scale * value) for value in column]
        for fact, column in known.items()
    ]
    header = ["", *(fact.title for fact in known)]
    return header, [[run.key, *cells] for run, *cells in zip(runs, *columns, strict=True)] if known else []
