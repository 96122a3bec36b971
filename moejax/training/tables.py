"""A run's numbers as CSV, for a spreadsheet: the metrics of each epoch, each expert's share of each example."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from moejax.routing import assigned_experts

METRICS = ("epoch", "loss", "accuracy", "expert_usage")
ACTIVATIONS = (
    *("Sample", "Expert", "Probability", "Label", "Epoch", "Batch", "Is_Assigned", "Assigned_Labels"),
    "Prediction",
)


class MetricsTable:
    """One line an epoch: the mean over its steps of what metrics.jsonl has of one kind.

    `expert_usage` is the load, [layer][expert], as JSON. Only the lines, and the records of the last epoch, are kept.
    """

    def __init__(self) -> None:
        self._lines = _csv(METRICS, [])
        self._epoch, self._before = 0, 0
        self._records: list[tuple[int, Mapping[str, Any]]] = []  # of the last epoch, with the steps of each

    def add(self, record: Mapping[str, Any]) -> None:
        """The next record of this kind."""
        epoch = math.ceil(record["epoch"])
        if epoch != self._epoch:
            self._lines, self._epoch, self._records = self.text(), epoch, []
        steps = record.get("steps", record["step"] - self._before)  # those that were not skipped
        self._records.append((max(steps, 1), record))
        self._before = record["step"]

    def text(self) -> str:
        """As CSV."""
        if not self._records:
            return self._lines
        steps, records = zip(*self._records, strict=True)
        loss, accuracy, load = (
            np.average([record[name] for record in records], axis=0, weights=steps)
            for name in ("loss", "accuracy", "load")
        )
        usage = json.dumps(np.round(load, 6).tolist())
        return self._lines + _csv((str(self._epoch), f"{loss:.6f}", f"{accuracy:.6f}", usage), [])


def activations_table(
    gates: Float[ndarray, "n e"],
    labels: Int[ndarray, " n"],
    predictions: Int[ndarray, " n"],
    *,
    num_labels: int,
    epoch: int,
    batch_size: int,
) -> str:
    """One line for each example and expert: `Probability` is the expert's share of the example's output.

    An expert's assigned labels are those that guided training sends to it (`assigned_experts`); an example is assigned
    to the expert of its label. `Batch` is the number of the evaluation's batch.
    """
    num_experts = gates.shape[1]
    expert_of = assigned_experts(num_labels, num_experts)
    assigned = [" ".join(map(str, np.flatnonzero(expert_of == e))) for e in range(num_experts)]
    return _csv(
        ACTIVATIONS,
        (
            [n, e, f"{gates[n, e]:.6f}", label, epoch, n // batch_size, int(expert_of[label] == e), assigned[e], guess]
            for n, (label, guess) in enumerate(zip(labels.tolist(), predictions.tolist(), strict=True))
            for e in range(num_experts)
        ),
    )


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
