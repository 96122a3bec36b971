"""A run is killed before each of its file operations, in the middle of each write, and at random moments.

Then the ordinary command goes on. Parameters, optimiser state and metrics.jsonl must be those of a run that nobody
disturbed, bit for bit but for times, and its folder must hold the same files.
"""

import random
import time
from collections.abc import Iterator

from tests.torture.figure import Figure
from tests.torture.lab import KINDS, RUN, Lab, each, goes_on, needs_compiler, open_labs, undisturbed

SEED = 23


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """Every operation of both kinds of runs, then random moments; a sample of each if `quick`."""
    with open_labs() as labs:
        for kind, options in KINDS.items():
            yield _at_operations(labs, kind, [*RUN, *options], quick)
        yield _at_random(labs, [*RUN, *KINDS["all kept, averaged, the best tested"]], 2 if quick else 50)


def _at_operations(labs: list[Lab], kind: str, words: list[str], quick: bool) -> Figure:
    expected, operations = undisturbed(labs[0], words)
    cases = [(n, half) for n, op in enumerate(operations, 1) for half in [False] + [True] * (" write " in op)]
    if quick:
        cases = random.Random(SEED).sample(cases, 6)

    def attempt(lab: Lab, case: tuple[int, bool]) -> tuple[int, int]:
        (number, half), wrong = case, 0
        ended = lab.begin(words, number=number, half=half)
        where = f"{'half-way in' if half else 'before'} {number}, {operations[number - 1]}"
        if ended not in (0, -9):  # 0: threads made it one operation less, so that none had this number
            wrong += lab.problem(f"exit code {ended} {where}")
        return ended == -9, wrong + goes_on(lab, words, expected, f"killed {where}")

    killed, wrong = each(labs, cases, attempt)
    what = f"killed at each file operation ({kind}; {len(operations)} of them, and half-way in writes)"
    return Figure(what, killed, _in_words(wrong), not wrong and killed >= 0.75 * len(cases))


def _at_random(labs: list[Lab], words: list[str], pairs: int) -> Figure:
    """Two kills in a row: the second as the run goes on."""
    begun = time.monotonic()
    expected, _ = undisturbed(labs[0], words)
    longest = (time.monotonic() - begun) / 2
    draw = random.Random(SEED)
    cases = [[round(draw.uniform(0.1, longest), 3) for _ in range(2)] for _ in range(pairs)]

    def attempt(lab: Lab, moments: list[float]) -> tuple[int, int]:
        killed = lab.begin(words, seconds=moments[0]) == -9
        killed += lab.run(words, seconds=moments[1]) == -9
        return killed, goes_on(lab, words, expected, f"killed after {moments} s")

    killed, wrong = each(labs, cases, attempt)
    what = "killed twice at random moments, of training and of going on"
    return Figure(what, killed, _in_words(wrong), not wrong and killed > 0)


def _in_words(wrong: int) -> str:
    return f"{wrong} went on to another end" if wrong else "all went on to the same state, lines and files"
