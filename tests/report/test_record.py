"""Reading a run folder: what is whole is read, what is broken is told, and only a folder that is no run is an error."""

import json
import math

import numpy as np
import pytest
from synthetic import metrics, write_run

from moejax import manifest, predictions
from moejax.errors import UserError
from moejax.predictions import Predictions
from moejax.report.record import read


def test_reads_a_finished_run(tmp_path):
    record = read(write_run(tmp_path / "run", "sparse", experts=4, layers=3))
    assert (record.name, record.layer, record.experts) == ("mnist_sparse", "sparse", 4)
    assert record.remarks == ()
    assert record.train["step"][[0, -1]].tolist() == [10, 2400]
    assert record.validation["step"].tolist() == list(range(100, 2401, 100))
    assert record.tested("loss") == 0.0512
    assert record.routing["load"].shape == (24, 3, 4)


def test_interrupted_run_says_so_and_keeps_what_it_wrote(tmp_path):
    record = read(write_run(tmp_path / "run", finished=False))
    (remark,) = record.remarks
    assert "interrupted" in remark
    assert "190" in remark
    assert len(record.train["step"]) == 19
    assert math.isnan(record.tested("accuracy"))
    assert list(record.routing) == ["step", "load", "gate_entropy", "dropped"]


def test_a_test_before_the_last_epoch_is_of_a_run_that_had_fewer(tmp_path):
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "summary.json").unlink()
    assert read(run).tested("loss") == 0.0512
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    assert math.isnan(read(run).tested("loss"))


def test_only_the_last_line_may_be_cut_silently(tmp_path):
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:], '{"kind": "te']))
    record = read(run)
    assert record.remarks == ("1 unreadable line(s) of metrics.jsonl were left out.",)
    assert record.train["step"][:2].tolist() == [10, 30]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[1]", b'{"kinD": "train", "step": 20}', b'{"kind": "train", "steP": 20}', b"[" * 10_000]
)
def test_a_damaged_line_in_the_middle_is_remarked_on(tmp_path, line):
    run = write_run(tmp_path / "run")
    first, _, *others = (run / "metrics.jsonl").read_bytes().splitlines()
    (run / "metrics.jsonl").write_bytes(b"\n".join([first, line, *others]))
    record = read(run)
    assert record.remarks == ("1 unreadable line(s) of metrics.jsonl were left out.",)
    assert record.train["step"][:2].tolist() == [10, 30]


@pytest.mark.parametrize("name", ["env.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_object_is_remarked_on(tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content)
    assert f"{name} is not what was written; it is left out." in read(run).remarks


def test_an_archive_damaged_inside_is_remarked_on(tmp_path):
    run = write_run(tmp_path / "run")
    np.savez_compressed(run / "routing.npz", load=np.random.default_rng(0).random((30, 2, 8)))
    good = (run / "routing.npz").read_bytes()
    for place in range(0, len(good), 97):
        (run / "routing.npz").write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        read(run)
    (run / "routing.npz").write_bytes(good[:200] + bytes(200) + good[400:])
    assert "routing.npz cannot be read; the pictures of the routing are left out." in read(run).remarks


def changed(file):
    """The last digit of the file is another one: what was JSON still is."""
    content = bytearray(file.read_bytes())
    at = max(n for n, byte in enumerate(content) if chr(byte).isdecimal())
    content[at] ^= 1
    file.write_bytes(content)


LEFT_OUT = {
    "metrics.jsonl": "train",
    "summary.json": "summary",
    "env.json": "environment",
    "routing.npz": "routing",
    "predictions.npz": "predictions",
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("gone", [False, True])
def test_of_a_finished_run_what_is_not_what_was_written_is_left_out(tmp_path, name, gone):
    run = write_run(tmp_path / "run")
    answers = Predictions(np.arange(3), np.arange(3), "of the test")
    (run / "predictions.npz").write_bytes(predictions.pack(answers))
    manifest.write(run)
    assert read(run).remarks == ()
    (run / name).unlink() if gone else changed(run / name)
    record = read(run)
    assert record.remarks == (f"{name} {'is missing' if gone else 'is not what was written'}; it is left out.",)
    assert not getattr(record, LEFT_OUT[name])


def test_of_a_finished_run_the_configuration_and_the_manifest_are_held_to_what_was_written(tmp_path):
    run = write_run(tmp_path / "run")
    manifest.write(run)
    changed(run / "config.json")
    with pytest.raises(UserError, match=r"config\.json is not what was written"):
        read(run)
    changed(run / "config.json")
    changed(run / "sha256.json")
    (remark,) = read(run).remarks
    assert remark.startswith("sha256.json cannot be read, so nothing tells")


def test_a_tokenizer_is_of_a_checkpoint_that_is_what_was_written(tmp_path):
    run = write_run(tmp_path / "run")
    for step in "12":
        (run / "checkpoints" / step).mkdir(parents=True)
        (run / "checkpoints" / step / "tokenizer.json").write_text("[1]")
        manifest.write(run / "checkpoints" / step)
    changed(run / "checkpoints" / "1" / "tokenizer.json")
    assert (read(run).tokenizer, read(run).remarks) == ("[1]", ())
    changed(run / "checkpoints" / "2" / "tokenizer.json")
    assert (read(run).tokenizer, read(run).remarks) == (
        None,
        ("tokenizer.json is not what was written; it is left out.",),
    )


def test_a_resumed_run_counts_a_repeated_step_once(tmp_path):
    run = write_run(tmp_path / "run")
    again = [{**line, "loss": 7.0} for line in metrics(50)]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in again)
    train = read(run).train
    assert train["step"].tolist() == list(range(10, 2401, 10))
    assert (train["loss"] == 7.0).nonzero()[0].tolist() == [0, 1, 2, 3, 4]


def test_nan_null_and_missing_values_are_nan(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [
        '{"kind":"train","step":1,"loss":NaN}',
        '{"kind":"train","step":2,"loss":null}',
        '{"kind":"train","step":3}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(rows))
    assert np.isnan(read(run).train["loss"]).tolist() == [True] * 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not an archive"])
def test_broken_archive_is_remarked_on(tmp_path, content):
    run = write_run(tmp_path / "run")
    (run / "routing.npz").write_bytes(content)
    assert any("routing.npz" in remark for remark in read(run).remarks)


def test_arrays_that_disagree_are_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    np.savez(run / "routing.npz", load=np.ones((3, 2, 4)), dropped=np.ones((5, 2)), gate_entropy=np.ones((0, 2)))
    record = read(run)
    assert list(record.routing) == ["load"]
    assert record.remarks == ("dropped in routing.npz has shape (5, 2), not (n layer); it was left out.",)


def test_no_run_folder_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"is not a run folder: it has no config\.json"):
            read(folder)
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(UserError, match="is not what was written"):
        read(tmp_path)
