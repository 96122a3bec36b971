"""Metrics beside metrics.jsonl: numbers by name, TensorBoard's files read back, Weights & Biases by a stand-in."""

import sys
import types

import pytest
from small_run import StopAfter
from test_fit import NEVER, lines, start

from moejax import run
from moejax.config import make_config, to_json
from moejax.errors import UserError
from moejax.training import writers
from moejax.training.folder import RunFolder
from moejax.training.log import Log

RECORD = {
    **dict(kind="train", step=3, epoch=0.5, loss=1.5, learning_rate=0, seconds=9.0),
    **dict(load=[[0.75, 0.25], [0.5, 0.5]], dropped=[0.0, 0.1], accuracy_of={"digit": 1.0}),
}
SCALARS = {
    "train/epoch": 0.5,
    "train/loss": 1.5,
    "train/learning_rate": 0.0,
    "train/dropped/layer_0": 0.0,
    "train/dropped/layer_1": 0.1,
    "train/accuracy_of/digit": 1.0,
    "train/largest_load/layer_0": 1.5,
    "train/least_load/layer_0": 0.5,
    "train/largest_load/layer_1": 1.0,
    "train/least_load/layer_1": 1.0,
}


def test_a_record_is_numbers_by_name():
    assert writers.scalars(RECORD) == SCALARS
    assert all(type(value) is float for value in writers.scalars(RECORD).values())


class Recorder:
    """In place of both libraries: keeps what it is told."""

    def __init__(self):
        self.begun, self.rows, self.points, self.ended = [], [], [], 0

    def init(self, **options):
        self.begun.append(options)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.ended += 1

    def SummaryWriter(self, folder, purge_step):  # noqa: N802
        self.begun.append((folder, purge_step))
        return types.SimpleNamespace(
            add_scalar=lambda *point: self.points.append(point), flush=lambda: None, close=self.finish
        )


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    for name in ("wandb", "tensorboardX"):
        module = types.ModuleType(name)
        module.init, module.SummaryWriter, module.__spec__ = recorder.init, recorder.SummaryWriter, object()
        monkeypatch.setitem(sys.modules, name, module)
    return recorder


def test_a_run_goes_on_as_the_same_one_of_weights_and_biases(recorder, config, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    config = config.replace(log="wandb")
    folder = RunFolder.create(tmp_path / "run", config)
    for step in (0, 6):
        log = Log(folder, config, steps_per_epoch=6)
        assert "metrics also go to wandb; see them by  wandb sync" in log.open(step)
        log.write("train", step + 3, loss=1.5)
        log.close()
    first, second = recorder.begun
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("moejax", "run", "allow")
    assert (first["dir"], first["config"]["train.epochs"]) == (str(tmp_path / "run"), 2)
    assert recorder.rows == [
        {"step": 3, "train/epoch": 0.5, "train/loss": 1.5},
        {"step": 9, "train/epoch": 1.5, "train/loss": 1.5},
    ]
    assert recorder.ended == 2
    log.write("train", 12, loss=1.5)  # closed: to metrics.jsonl alone
    assert (len(recorder.rows), len(lines(tmp_path / "run"))) == (2, 3)


def test_a_run_that_goes_on_writes_over_what_came_after_its_checkpoint(recorder, config, tmp_path):
    config = config.replace(log="tensorboard")
    for step, purge in ((0, None), (6, 7)):
        writer = writers.make_writer(config, tmp_path, step)
        assert recorder.begun[-1] == (str(tmp_path / "tensorboard"), purge)
    writer.write(RECORD)
    assert recorder.points == [(name, value, 3) for name, value in SCALARS.items()]
    assert writers.make_writer(config.replace(log=None), tmp_path, 0) is None


def test_tensorboards_files_hold_what_metrics_jsonl_holds(config, dataset, tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (what wrote them)

    fit = start(tmp_path / "run", config.replace(log="tensorboard"), dataset)
    fit.train(StopAfter(NEVER))
    fit.test()
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    content, found, place = file.read_bytes(), {}, 0
    while place < len(content):  # a record: its length, a checksum, the event, a checksum
        size = int.from_bytes(content[place : place + 8], "little")
        event = Event.FromString(content[place + 12 : place + 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        place += 16 + size
    for record in lines(tmp_path / "run"):
        for name in ("loss", "accuracy"):
            assert found[f"{record['kind']}/{name}", record["step"]] == pytest.approx(record[name])
    assert (
        len(found) == sum(len(writers.scalars(record)) for record in lines(tmp_path / "run", "examples_per_second")) + 4
    )


def test_a_library_that_is_missing_or_cannot_begin_is_one_sentence(config, tmp_path, monkeypatch, capsys, recorder):
    with pytest.raises(UserError, match=r"^log is tensorbord; it must be one of tensorboard, wandb, or none"):
        make_config(log="tensorbord")
    recorder.init = None
    sys.modules["wandb"].init = lambda **_: 1 / 0
    with pytest.raises(UserError, match=r"^log is wandb, which cannot begin: division by zero; log in by"):
        writers.make_writer(config.replace(log="wandb"), tmp_path, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^log is tensorboard, but tensorboardX is not installed; pip install 'moejax\["
    ):
        writers.check(config.replace(log="tensorboard"))


def test_a_run_writes_to_both_and_ten_of_its_steps_are_traced(recorder, config, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    monkeypatch.setattr(run, "_report", lambda path, stop: path)
    config = config.replace(log="wandb", train=dict(batch_size=3, chunk=15, epochs=1))
    (tmp_path / "small.json").write_text(to_json(config))
    words = ["--config", str(tmp_path / "small.json"), "--out", str(tmp_path / "run")]
    (tmp_path / "file").write_text("")
    assert run.main([*words, "--profile", str(tmp_path / "file" / "trace")]) == 2
    assert "Cannot write to --profile" in capsys.readouterr().err
    assert run.main([*words, "--profile", str(tmp_path / "trace")]) == 0
    said = capsys.readouterr().out
    assert f"xprof --logdir {tmp_path / 'trace'}" in said
    (file,) = (tmp_path / "trace").rglob("*perfetto_trace.json.gz")
    assert f"traced 10 steps: open {file} at https://ui.perfetto.dev" in said
    assert [r["step"] for r in lines(tmp_path / "run") if r["kind"] == "train"] == [15, 25, 30]
    assert [row["step"] for row in recorder.rows] == [record["step"] for record in lines(tmp_path / "run")]
    assert recorder.rows[-1]["test/accuracy"] == lines(tmp_path / "run")[-1]["accuracy"]
    assert recorder.ended == 1
    (tmp_path / "run" / "summary.json").unlink()
    assert run.main(["--resume", str(tmp_path / "run"), "--profile", str(tmp_path / "again")]) == 0
    assert "note: no step is left to take, so --profile traces nothing" in capsys.readouterr().out
