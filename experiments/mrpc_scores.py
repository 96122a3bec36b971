"""What the studies of MRPC share: dev scores of a run, and those of always answering "paraphrase"."""

from pathlib import Path

from experiments.study import Row, log, summary


def dev(folder: Path) -> Row:
    """The dev scores of the state that was tested."""
    result = summary(folder)
    [tested] = [record for record in log(folder, "validation") if record["step"] == result["tested_step"]]
    scores = {"dev_accuracy": tested["accuracy"], "dev_f1": tested["f1"]}
    return {**scores, "dev_majority": result["validation_majority"]}


def f1_of_majority(share: float) -> float:
    """F1 of always answering 1, where so large a share of the labels is 1."""
    return 2 * share / (1 + share)
