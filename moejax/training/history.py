"""What a run records of its routing on the way: each expert's load over the steps, and a film of a few examples."""

import io

import numpy as np
from numpy import ndarray

from moejax.training.film import Film
from moejax.training.objective import StepMetrics

_KEPT = ("load", "dropped", "gate_entropy")
_ROWS = 4096


class RoutingHistory:
    """Routing metrics of the training steps: a row for each chunk, or for as many that 4,096 rows are enough."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: dict[str, list[ndarray]] = {name: [] for name in _KEPT}
        self.chunks: list[int] = []  # in each row; in all but the last as many
        self.film = Film()

    @classmethod
    def from_bytes(cls, content: bytes) -> "RoutingHistory":
        """Back from its packed arrays."""
        history = cls()
        with np.load(io.BytesIO(content)) as arrays:
            history.steps = arrays["step"].tolist()
            history.rows = {name: list(arrays[name]) for name in _KEPT}
            # Runs of earlier versions have a row for each chunk.
            history.chunks = arrays["chunks"].tolist() if "chunks" in arrays else [1] * len(history.steps)
            history.film = Film.from_arrays(dict(arrays))
        return history

    def append(self, step: int, metrics: StepMetrics) -> None:
        """Add the chunk that ended at `step`."""
        means = {name: getattr(metrics, name).mean(0) for name in _KEPT}
        if self.chunks and self.chunks[-1] < self.chunks[0]:
            n = self.chunks[-1]
            means = {name: (self.rows[name].pop() * n + mean) / (n + 1) for name, mean in means.items()}
            self.steps[-1], self.chunks[-1] = step, n + 1
        else:
            self.steps.append(step)
            self.chunks.append(1)
        for name, mean in means.items():
            self.rows[name].append(np.asarray(mean, np.float32))
        if len(self.chunks) == _ROWS and self.chunks[-1] == self.chunks[0]:
            self._halve()

    def _halve(self) -> None:
        self.steps, self.chunks = self.steps[1::2], [2 * n for n in self.chunks[1::2]]
        for name, of_name in self.rows.items():
            self.rows[name] = [(one + other) / 2 for one, other in zip(of_name[::2], of_name[1::2], strict=True)]

    def to_arrays(self) -> dict[str, ndarray]:
        """`step`, the last, and `chunks` [n], `load` [n, layer, expert], `dropped` and `gate_entropy` [n, layer]; those
        of the film.
        """
        rows = {name: np.array(rows, np.float32) for name, rows in self.rows.items()}
        steps = {"step": np.array(self.steps, np.int64), "chunks": np.array(self.chunks, np.int64)}
        return steps | rows | self.film.to_arrays()
