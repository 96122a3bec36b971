"""What a run measures as it goes: lines of metrics.jsonl, the same for a writer, and the tables of its epochs."""

import time
from typing import Any

import numpy as np

from moejax.config import Config
from moejax.training.evaluate import Evaluation
from moejax.training.folder import RunFolder
from moejax.training.tables import MetricsTable
from moejax.training.writers import Writer, make_writer


class Log:
    """The measurements of a run, from its folder on.

    Attributes:
      started: when the run would have begun, had it never been interrupted, on the clock `time.perf_counter`.
    """

    def __init__(self, folder: RunFolder, config: Config, steps_per_epoch: int):
        self.folder, self.config, self.steps_per_epoch = folder, config, steps_per_epoch
        self.started = time.perf_counter()
        self._writer: Writer | None = None
        self._tables: dict[str, MetricsTable] = {}  # by kind, of all that is in metrics.jsonl, once that was read

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.perf_counter() - self.started

    def open(self, step: int) -> str | None:
        """From now on a writer that `log` names gets all lines, from `step` on; how to look at them."""
        self._writer = make_writer(self.config, self.folder.path, step) if self.folder.writes else None
        if self._writer is None:
            return None
        return f"metrics also go to {self.config.log}; see them by  {self._writer.shown_by}"

    def write(self, kind: str, step: int, **values: Any) -> None:
        """A line of that kind."""
        place = {"kind": kind, "step": step, "epoch": round(step / self.steps_per_epoch, 6)}
        record = place | values | {"seconds": round(self.seconds, 2)}
        self.folder.log(record)
        if kind in self._tables:
            self._tables[kind].add(record)
        if self._writer is not None:
            self._writer.write(record)

    def evaluation(self, kind: str, step: int, result: Evaluation, scores: dict[str, Any]) -> None:
        """A line on a split; `scores`: what it has beside loss and accuracy."""
        names = ("load", "dropped", "gate_entropy", "experts_per_token")
        lists = {name: rounded(getattr(result, name)) for name in names}
        self.write(kind, step, loss=result.loss, accuracy=result.accuracy, **scores, **lists)

    def rate(self) -> float:
        """Examples per second, the median over the chunks of all of the run."""
        rates = [record["examples_per_second"] for record in self.folder.read_log() if record["kind"] == "train"]
        return round(float(np.median(rates)), 1)

    def tables(self, *kinds: str) -> None:
        """Write the table of each kind of line anew."""
        if not self.folder.writes:
            return
        if not self._tables:
            self._tables = {kind: MetricsTable() for kind in ("train", "validation", "test")}
            for record in self.folder.read_log():
                if record["kind"] in self._tables:
                    self._tables[record["kind"]].add(record)
        for kind in kinds:
            self.folder.write(f"{kind}_metrics.csv", self._tables[kind].text())

    def close(self) -> None:
        """Have all of it written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def rounded(values: np.ndarray) -> list:
    """To six places, as lists."""
    return np.round(values, 6).tolist()
