"""Progress while a run trains: a live panel on a terminal, one plain line a chunk elsewhere."""

import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOBase
from typing import Any

import numpy as np
from numpy import ndarray
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from moejax.entry import discard
from moejax.errors import of_the_system

_BAR = "▁▂▃▄▅▆▇█"


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
    dropped: float  # share of token choices, mean over layers
    load: ndarray  # [layer, expert], shares


class Lasting:
    """A stream that shows nothing more once it cannot be written: what is watched goes on when nobody watches."""

    def __init__(self, stream: TextIOBase):
        self._stream, self._lost = stream, False

    def write(self, text: str) -> int:
        """As `stream.write`, but no error."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As `stream.flush`, but no error."""
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
    """Shows `Status` and messages; `console` decides whether that is live or plain."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=Lasting(sys.stdout), highlight=False)
        self._live: Live | None = None

    @contextmanager
    def live(self):
        """Keep a panel at the bottom of the terminal while inside; nothing where stdout is no terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=8) as self._live:
            yield
        self._live = None

    def message(self, text: str) -> None:
        """One lasting line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, status: Status) -> None:
        """The latest numbers."""
        if self._live is not None:
            self._live.update(panel(status))
        else:
            self.message(line(status))


def line(s: Status) -> str:
    """All of a status on one line."""
    return (
        f"epoch {s.epoch}/{s.epochs}  step {s.step}/{s.steps}  loss {s.loss:.4f}  accuracy {s.accuracy:.2%}"
        f"  {s.examples_per_second:,.0f} examples/s  dropped {s.dropped:.2%}  load {' '.join(map(bar, s.load))}"
    )


def panel(s: Status) -> Group:
    """The same as a small table over a bar of steps."""
    table = Table.grid(padding=(0, 3))
    table.add_row("epoch", "step", "loss", "accuracy", "examples/s", "dropped", "load by layer", style="dim")
    table.add_row(
        f"{s.epoch}/{s.epochs}", f"{s.step}/{s.steps}", f"{s.loss:.4f}", f"{s.accuracy:.2%}",
        f"{s.examples_per_second:,.0f}", f"{s.dropped:.2%}", "  ".join(map(bar, s.load)),
    )  # fmt: skip
    width = 60
    done = round(width * s.step / s.steps)
    return Group(table, Text("━" * done, style="green").append("━" * (width - done), style="dim"))


def bar(load: ndarray) -> str:
    """One character an expert: half height is a fair share 1/E, full height twice that or more."""
    levels = np.clip(np.round(load * len(load) / 2 * (len(_BAR) - 1)), 0, len(_BAR) - 1)
    return "".join(_BAR[int(level)] for level in levels)
