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


def metrics_table(records: Sequence[Mapping[str, Any]], kind: str) -> str:
    """One line an epoch: the mean over its steps of what metrics.jsonl has of that kind.

    `expert_usage` is the load, [layer][expert], as JSON.
    """
    epochs: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    before = 0
    for record in records:
        if record["kind"] == kind:
            epochs.setdefault(math.ceil(record["epoch"]), []).append((max(record["step"] - before, 1), record))
            before = record["step"]

    def line(epoch: int) -> list[Any]:
        steps, of_epoch = zip(*epochs[epoch], strict=True)
        loss, accuracy, load = (
            np.average([record[name] for record in of_epoch], axis=0, weights=steps)
            for name in ("loss", "accuracy", "load")
        )
        return [epoch, f"{loss:.6f}", f"{accuracy:.6f}", json.dumps(np.round(load, 6).tolist())]

    return _csv(METRICS, map(line, epochs))


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
