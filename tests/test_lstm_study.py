"""The study of LSTM and MoE: what it reads out of a run's folder, and which of the original's runs stands beside it."""

import json

from experiments.lstm_moe import run as study


def test_accuracies_by_epoch_are_weighted_by_steps(tmp_path):
    # Two epochs of 5 steps, in lines of 2, 2 and 1 steps.
    train = [(2, 0.4, 0.5), (4, 0.8, 0.7), (5, 1.0, 0.8), (7, 1.4, 0.9), (9, 1.8, 0.9), (10, 2.0, 1.0)]
    records = [{"kind": "train", "step": s, "epoch": e, "accuracy": a} for s, e, a in train]
    records += [{"kind": kind, "step": 5, "epoch": 1.0, "accuracy": 0.75} for kind in ("validation", "test")]
    records = [{"loss": 1.0, "seconds": 1.0} | record for record in records]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    # (2 · 0.5 + 2 · 0.7 + 0.8) / 5 and (4 · 0.9 + 1) / 5
    assert study.curves(tmp_path) == {"train_curve": [0.64, 0.92], "validation_curve": [0.75]}


def test_each_run_stands_beside_the_originals_of_its_shape_with_the_nearest_number_of_epochs():
    row = {"seed": 0, "train_examples": 55000, "train_curve": [0.9, 0.995], "validation_curve": [], "parameters": 7}
    row |= {"test_accuracy": 0.9931, "least_load": 0.5}
    shapes = [(10, 512, 20, "affine"), (10, 512, 10, "crop"), (10, 512, 10, "crop+blur"), (5, 512, 10, "crop")]
    shapes += [(5, 512, 2, "crop")]  # a shorter run has no line
    names = ("experts", "hidden", "epochs", "augmentation")
    rows = [row | dict(zip(names, shape, strict=True)) for shape in shapes]
    rows += [rows[0] | {"both_ends": True}]  # no network of the original's
    lines = study.table(rows).splitlines()[2:]
    beside = {tuple(line.split(" | ")[:2]): line.split(" | ")[2:5] for line in lines}
    assert beside["| 10 × 512", "affine"] == ["20", "99.79 %", "99.28 %"]
    assert beside["| 10 × 512", "crop"] == ["10", "99.534 %", "99.37 %"]
    assert beside["| 10 × 512", "crop+blur"] == ["20", "99.735 %", "99.31 %"]
    assert beside["| 5 × 512", "crop"] == ["–", "–", "–"]
    assert beside["| 10 × 512, both ends", "affine"] == ["–", "–", "–"]
    assert len(lines) == 5
    assert all("**99.31 %**" in line for line in lines)
