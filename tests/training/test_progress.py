"""Progress: a live panel on a terminal, plain lines elsewhere, with the same numbers."""

import io

import numpy as np
from rich.console import Console

from moejax.training.progress import Progress, Status, bar

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


def test_a_bar_is_at_half_height_for_a_fair_share_and_full_at_twice_that():
    assert bar(np.array([0.25, 0.25, 0.25, 0.25])) == "▅▅▅▅"
    assert bar(np.array([0.9, 0.1, 0.0, 0.0])) == "█▂▁▁"
