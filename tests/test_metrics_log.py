"""The lines of a metrics.jsonl: the records, and a sentence for each line that is none."""

from pathlib import Path

import pytest

from moejax.metrics_log import records

FILE = Path("metrics.jsonl")


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", []),
        (b"x", []),
        (b"x\n", [1]),
        (b"x\n{}\nx", [1, 2]),  # Python has every byte once, and so one x
        (b"x\n\n[" + b"[" * 100_000, [1]),
        (b"[" * 100_000 + b"\nx\n", [1, 2]),
    ],
)
def test_each_line_that_is_no_record_is_said_but_for_a_last_one_cut_short(content, wrong):
    found, problems = records(content, FILE)
    assert found == []
    assert [problem.split()[2] for problem in problems] == [f"{number}," for number in wrong]
