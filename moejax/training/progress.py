"""Progress while a run trains: a live panel on a terminal, one plain line a chunk elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOBase
from typing import Any

import numpy as np
from numpy import ndarray
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from moejax.entry import discard
from moejax.errors import of_the_system

_BAR = "▁▂▃▄▅▆▇█"
_GAP = 3  # between columns


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    examples_per_second: float
    dropped: float  # share of the choices, of expert choice of the tokens; mean over layers
    load: ndarray  # [layer, expert], shares


class Lasting:
    """A stream whose errors end its output and not the run: a closed terminal stops nothing."""

    def __init__(self, stream: TextIOBase):
        self._stream, self._lost = stream, False

    def write(self, text: str) -> int:
        """As `stream.write`, without its errors."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As `stream.flush`, without its errors."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            action()
        except OSError as error:
            self._lost = True
            discard(self._stream)
            with suppress(OSError):
                print(f"moejax: nothing more is shown: {of_the_system(error)} The run goes on.", file=sys.stderr)


class Progress:
    """Shows `Status` and messages: live if `console` is a terminal, else as plain lines."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self._clock, self._first = clock, None
        self.console = console or Console(file=Lasting(sys.stdout), highlight=False)
        self._live: Live | None = None

    @contextmanager
    def live(self):
        """Inside, keep a panel at the bottom of the terminal, if stdout is one."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=8) as self._live:
            yield
        self._live = None

    def message(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, status: Status) -> None:
        """Show the latest numbers."""
        now = self._clock()
        first_step, since = self._first = self._first or (status.step, now)
        done = status.step - first_step
        facts = _facts(status, (now - since) / done * (status.steps - status.step) if done else None)
        if self._live is not None:
            self._live.update(Panel(facts, status.step / status.steps))
        else:
            self.message("  ".join(_said(*fact) for fact in facts))


def _facts(s: Status, left: float | None) -> list[tuple[str, str]]:
    """Names and values; `left`: seconds to the last step, None if not known yet."""
    return [
        ("epoch", f"{s.epoch}/{s.epochs}"),
        ("step", f"{s.step}/{s.steps}"),
        *([] if left is None else [("left", duration(left))]),
        ("loss", f"{s.loss:.4f}"),
        ("accuracy", f"{s.accuracy:.2%}"),
        ("examples/s", f"{s.examples_per_second:,.0f}"),
        ("dropped", f"{s.dropped:.2%}"),
        ("load by layer", "  ".join(map(bar, s.load))),
    ]


def _said(name: str, value: str) -> str:
    return f"{value} {name}" if name == "examples/s" else f"{name.removesuffix(' by layer')} {value}"


class Panel:
    """Names over their values, in as many rows as the terminal needs, then a bar of steps."""

    def __init__(self, facts: Sequence[tuple[str, str]], done: float):
        self.facts, self.done = facts, done

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | ProgressBar]:
        rows, room = [], 0
        for name, value in self.facts:
            needs = max(len(name), len(value)) + _GAP
            if needs > room:
                rows, room = [*rows, []], options.max_width + _GAP
            rows[-1].append((name, value))
            room -= needs
        for row in rows:
            table = Table.grid(*(Column(overflow="fold") for _ in row), padding=(0, _GAP, 0, 0), pad_edge=False)
            table.add_row(*(name for name, _ in row), style="dim")
            table.add_row(*(value for _, value in row))
            yield table
        yield ProgressBar(1.0, self.done, min(60, options.max_width), complete_style="green", finished_style="green")


def duration(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def bar(load: ndarray) -> str:
    """One character an expert: half height is a fair share 1/E, full height twice that or more."""
    levels = np.clip(np.round(load * len(load) / 2 * (len(_BAR) - 1)), 0, len(_BAR) - 1)
    return "".join(_BAR[int(level)] for level in levels)
