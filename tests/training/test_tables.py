"""A run's CSV files, worked by hand."""

import numpy as np

from moejax.training.tables import MetricsTable, activations_table


def record(kind, step, epoch, loss, accuracy, load):
    return {"kind": kind, "step": step, "epoch": epoch, "loss": loss, "accuracy": accuracy, "load": [load]}


RECORDS = [
    record("train", 3, 0.75, 4.0, 0.5, [0.5, 0.5]),
    record("train", 4, 1.0, 2.0, 0.75, [1.0, 0.0]),
    record("validation", 4, 1.0, 3.0, 0.25, [0.25, 0.75]),
    record("train", 7, 1.75, 1.0, 1.0, [0.5, 0.5]),
]


def metrics_table(records, kind):
    table = MetricsTable()
    for record in records:
        if record["kind"] == kind:
            assert table.text() == table.text()  # written in the middle of an epoch, too
            table.add(record)
    return table.text()


def test_an_epoch_is_the_mean_over_its_steps():
    # Epoch 1: three steps of the first record, one of the second.
    assert metrics_table(RECORDS, "train") == (
        'epoch,loss,accuracy,expert_usage\n1,3.500000,0.562500,"[[0.625, 0.375]]"\n2,1.000000,1.000000,"[[0.5, 0.5]]"\n'
    )
    assert metrics_table(RECORDS, "validation").splitlines()[1:] == ['1,3.000000,0.250000,"[[0.25, 0.75]]"']
    assert metrics_table(RECORDS, "test") == "epoch,loss,accuracy,expert_usage\n"


def test_of_an_epoch_s_steps_those_that_were_skipped_do_not_count():
    base = {"kind": "train", "epoch": 1.0, "accuracy": 0.5, "load": [[1.0]]}
    table = MetricsTable()
    table.add(base | {"step": 50, "loss": 1.0, "steps": 50})
    table.add(base | {"step": 100, "loss": 3.0, "steps": 10})
    assert table.text().splitlines()[1].startswith("1,1.333333,")


def test_activations_have_a_line_for_every_example_and_expert():
    # Three labels, two experts: labels 0 and 1 are meant for expert 0, label 2 for expert 1. Batches of two.
    gates = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], np.float32)
    text = activations_table(
        gates, np.array([2, 1, 0]), np.array([2, 0, 0]), num_labels=3, epoch=4, batch_size=2
    ).splitlines()
    assert text == [
        "Sample,Expert,Probability,Label,Epoch,Batch,Is_Assigned,Assigned_Labels,Prediction",
        "0,0,0.250000,2,4,0,0,0 1,2",
        "0,1,0.750000,2,4,0,1,2,2",
        "1,0,1.000000,1,4,0,1,0 1,0",
        "1,1,0.000000,1,4,0,0,2,0",
        "2,0,0.500000,0,4,1,1,0 1,0",
        "2,1,0.500000,0,4,1,0,2,0",
    ]
