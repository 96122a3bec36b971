"""Progress: a live panel on a terminal, plain lines elsewhere, with the same numbers."""

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from moejax.training.progress import Progress, Status, bar, duration

STATUS = Status(
    epoch=2,
    epochs=4,
    step=150,
    steps=400,
    loss=0.12345,
    accuracy=0.9876,
    examples_per_second=2345.6,
    dropped=0.0123,
    load=np.array([[0.5, 0.5], [1.0, 0.0]]),
)
NUMBERS = ("2/4", "150/400", "0.1235", "98.76%", "2,346", "1.23%", "▅▅", "█▁")


def shown(terminal: bool) -> str:
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, width=120, highlight=False))
    with progress.live():
        progress.update(STATUS)
        progress.message("a lasting line")
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal():
    text = shown(terminal=False)
    assert text.count("\n") == 2
    assert "\x1b" not in text
    assert all(number in text for number in NUMBERS)


def test_a_panel_on_a_terminal_shows_the_same_numbers():
    text = shown(terminal=True)
    assert "a lasting line" in text
    assert all(number in text for number in NUMBERS)


def at(columns: int, load: np.ndarray, steps: tuple[int, ...] = (100, 150)) -> list[str]:
    """The last panel on a terminal so wide, after updates half a minute apart."""
    times = iter(range(0, 30 * len(steps), 30))
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, highlight=False, color_system=None)
    progress = Progress(console, clock=lambda: next(times))
    with progress.live():
        for step in steps:
            progress.update(dataclasses.replace(STATUS, step=step, load=load))
    after = console.file.getvalue().rpartition("\x1b[2K")[2]  # what replaced the panel before
    return re.sub(r"\x1b\[[?\d]*\w", "", after).splitlines()


@pytest.mark.parametrize("columns", [24, 40, 80, 120])
@pytest.mark.parametrize("experts", [2, 64])
def test_a_narrow_terminal_has_more_rows_and_every_number(columns, experts):
    load = np.stack([np.eye(experts)[0], np.full(experts, 1 / experts)])
    lines = at(columns, load)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= columns
    assert "…" not in text
    assert all(number in text for number in NUMBERS[:6])
    assert sum(map(text.count, "▁▂▃▄▅▆▇█")) == 2 * experts


def test_the_time_left_is_that_of_the_steps_so_far():
    assert any("2:30" in line for line in at(80, STATUS.load))  # 50 steps took 30 s; 250 are left
    assert not any("left" in line for line in at(80, STATUS.load, steps=(100,)))
    assert [duration(s) for s in (0.4, 59.7, 3600.0, 36061.0)] == ["0:00", "1:00", "1:00:00", "10:01:01"]


def test_a_bar_is_at_half_height_for_a_fair_share_and_full_at_twice_that():
    assert bar(np.array([0.25, 0.25, 0.25, 0.25])) == "▅▅▅▅"
    assert bar(np.array([0.9, 0.1, 0.0, 0.0])) == "█▂▁▁"
