"""A run never loses what it had: cut anywhere, stopped anywhere, or with damaged files, it goes on to the same bits."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from seldom import slow_but_for
from small_run import StopAfter

from moejax import manifest
from moejax.errors import UserError
from moejax.runs import checkpoint
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.identity import check_same
from moejax.training.progress import Progress

NEVER = 10**9


class Heard(Progress):
    """Keeps what was said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def message(self, text: str) -> None:
        self.said.append(text)


def resumed(path, dataset) -> Fit:
    folder, config = RunFolder.open(path)
    run = Fit(config, dataset, folder, Heard())
    run.resume()
    return run


def bits(run: Fit) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(run.state)]


def lines(path) -> list[dict]:
    records = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in ("seconds", "examples_per_second")} for r in records]


@pytest.fixture(scope="module")
def run_config(config):
    train = dict(epochs=3, tested="best")
    return config.replace(train=train)


@pytest.fixture(scope="module", autouse=True)
def first_epoch_is_the_best():
    """Validation accuracies fall from epoch to epoch."""
    real = Fit._evaluate

    def evaluate(self, examples, *options):
        result = real(self, examples, *options)
        return result._replace(accuracy=1 - int(self.state.step) / 100) if examples is self.data.validation else result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "_evaluate", evaluate)
        yield


@pytest.fixture(scope="module")
def whole(run_config, dataset, tmp_path_factory):
    """A run that nothing happened to: its folder, its final state, its summary."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    run = Fit(run_config, dataset, RunFolder.create(path, run_config), Progress())
    assert run.train(StopAfter(NEVER))
    last = bits(run)
    return path, last, run.test()


@pytest.fixture(scope="module")
def stopped(run_config, dataset, tmp_path_factory):
    """The folder of a run that was stopped in its second epoch, at step 9 of 18."""
    path = tmp_path_factory.mktemp("runs") / "stopped"
    run = Fit(run_config, dataset, RunFolder.create(path, run_config), Progress())
    assert not run.train(StopIn(run, 9))
    return path


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


class StopIn(StopAfter):
    """Asks to stop once the run has come to a step."""

    def __init__(self, run: Fit, step: int):
        super().__init__(0)
        self.run, self.step = run, step

    @property
    def requested(self) -> bool:
        return int(self.run.state.step) >= self.step


def goes_on_as_if_nothing_had_happened(path, dataset, whole) -> Fit:
    run = resumed(path, dataset)
    assert run.train(StopAfter(NEVER))
    assert bits(run) == whole[1]
    summary = run.test()
    for name in whole[2].keys() - {"seconds", "examples_per_second"}:
        assert summary[name] == whole[2][name], name
    assert summary["examples_per_second"] > 0
    assert lines(path) == lines(whole[0])
    with np.load(path / "routing.npz") as now, np.load(whole[0] / "routing.npz") as then:
        assert now.files == then.files
        for name in now.files:
            np.testing.assert_array_equal(now[name], then[name])
    return run


def test_stopped_and_resumed_it_still_knows_its_best_epoch(copy, dataset, whole):
    assert whole[2]["tested_step"] == 6
    goes_on_as_if_nothing_had_happened(copy, dataset, whole)


@pytest.mark.parametrize("moment", ["digests", "seal", "flush"])
def test_cut_between_what_the_library_wrote_and_the_manifest(copy, dataset, whole, monkeypatch, moment):
    run = resumed(copy, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, moment, lambda *args, **kwargs: signal_again())
        with pytest.raises(KeyboardInterrupt):
            run.train(StopAfter(NEVER))
    run = goes_on_as_if_nothing_had_happened(copy, dataset, whole)
    assert "resuming after step 9 of 18" in run.progress.said


def signal_again():
    raise KeyboardInterrupt


def test_resumed_after_its_last_step_it_has_its_speed(run_config, dataset, whole, tmp_path):
    path = shutil.copytree(whole[0], tmp_path / "copy")
    (path / "summary.json").unlink()
    run = goes_on_as_if_nothing_had_happened(path, dataset, whole)
    assert run.folder.read_summary()["examples_per_second"] == whole[2]["examples_per_second"]


def removed(path):
    path.unlink()


def bad_line(path):
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b'{"kind": "va\n' + b"".join(others[1:]))


def flipped_key(path):
    path.write_bytes(path.read_bytes().replace(b'"kind"', b'"kinD"', 1))


def flipped_number(path):
    path.write_bytes(path.read_bytes().replace(b'"loss": ', b'"loss": 1', 1))


def not_text(path):
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


@pytest.mark.parametrize("damage", slow_but_for((removed, bad_line, flipped_key, flipped_number, not_text), not_text))
def test_a_damaged_log_is_again_what_it_was_and_says_so(copy, stopped, dataset, damage):
    damage(copy / "metrics.jsonl")
    (copy / "routing.npz").write_bytes(b"PK")
    run = resumed(copy, dataset)
    assert (copy / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()
    assert "metrics.jsonl was damaged; it is again what it was at step 9." in run.progress.said


def test_a_log_that_was_never_made_is_no_hindrance(run_config, dataset, tmp_path):
    path = RunFolder.create(tmp_path / "run", run_config).path
    (path / "metrics.jsonl").unlink()
    said = [sentence for sentence in resumed(path, dataset).progress.said if "devices" not in sentence]
    assert said == ["resuming after step 0 of 18"]
    assert (path / "metrics.jsonl").read_bytes() == b""


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(copy, dataset, whole):
    array = next(p for p in (copy / "checkpoints" / "9").rglob("d/*") if p.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    run = goes_on_as_if_nothing_had_happened(copy, dataset, whole)
    assert any(str(array) in sentence for sentence in run.progress.said)
    assert "resuming after step 6 of 18" in run.progress.said


def test_a_best_checkpoint_that_is_gone_or_damaged_is_no_other_result(copy, dataset):
    run = resumed(copy, dataset)
    assert run.train(StopAfter(NEVER))
    array = next(p for p in (copy / "checkpoints" / "6").rglob("d/*") if p.is_file())
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not what was written"):
        run.test()
    shutil.rmtree(copy / "checkpoints" / "6")
    with pytest.raises(UserError, match=r"checkpoints/6, is gone; set train\.tested in .* to last"):
        run.test()


@pytest.mark.parametrize(
    ("reads", "what"), [("saved", ""), ("restore", ""), ("saved", "/state/_METADATA"), ("restore", "/state/**/d/*")]
)
def test_a_checkpoint_that_is_deleted_as_it_is_read_is_an_error_of_the_system(copy, dataset, monkeypatch, reads, what):
    run = resumed(copy, dataset)
    really = getattr(checkpoint, reads)

    def too_late(folder, *more):
        for path in list(folder.parent.glob(f"{folder.name}{what}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return really(folder, *more)

    monkeypatch.setattr(checkpoint, reads, too_late)
    with pytest.raises(FileNotFoundError) as raised:
        run.restore(6)
    assert raised.value.filename == str(copy / "checkpoints" / "6")


def test_so_is_one_of_which_a_part_is_gone_when_the_library_says_so_in_a_cause_alone(copy, dataset, monkeypatch):
    def half_gone(folder, *more):
        raise RuntimeError("Encountered error while reading array index") from ValueError("NOT_FOUND: state/d/0")

    run = resumed(copy, dataset)
    monkeypatch.setattr(checkpoint, "restore", half_gone)
    with pytest.raises(FileNotFoundError):
        run.restore(6)


def test_a_run_whose_checkpoints_were_deleted_says_so_at_its_end(copy, dataset):
    run = resumed(copy, dataset)
    assert run.train(StopAfter(NEVER))
    run.config = run.config.replace(train={"tested": "last"})
    shutil.rmtree(copy / "checkpoints")
    run.test()
    assert "holds no checkpoint any more: the run can neither go on nor be asked" in run.progress.said[-1]


def test_another_configuration_is_refused_by_the_field(copy, dataset):
    config = json.loads((copy / "config.json").read_text())
    config["seed"], config["train"]["shift"] = 4, 2.0
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as raised:
        resumed(copy, dataset)
    seed, shift = raised.value.sentences
    assert seed.startswith(f"seed is 4, but the checkpoints of {copy} were made with 0; set it back in")
    assert shift.startswith("train.shift is 2.0")


def test_other_devices_and_places_of_the_data_are_no_other_configuration(copy, dataset):
    config = json.loads((copy / "config.json").read_text())
    config["parallel"]["reads"], config["data"]["dir"], config["train"]["tested"] = "share", "/elsewhere", "last"
    (copy / "config.json").write_text(json.dumps(config))
    assert int(resumed(copy, dataset).state.step) == 9


def test_other_data_are_refused(copy, dataset):
    image = dataset.train["image"].copy()
    image[0, 0, 0] ^= 1
    before = (copy / "data.json").read_bytes()
    with pytest.raises(UserError, match="The examples are not those that the checkpoints of"):
        resumed(copy, dataclasses.replace(dataset, train=dataset.train | {"image": image}))
    assert (copy / "data.json").read_bytes() == before


def test_nothing_to_validate_on_cannot_have_a_best_epoch(run_config, dataset, tmp_path):
    nothing = {name: array[:0] for name, array in dataset.validation.items()}
    with pytest.raises(UserError, match=r"train\.tested is best, but there are no validation examples"):
        Fit(run_config, dataclasses.replace(dataset, validation=nothing), RunFolder(tmp_path), Progress())


def test_an_option_that_only_one_version_has_is_at_its_default_in_the_other(tmp_path):
    same = {"train.optimizer": "adamw", "seed": 0}
    then = {"config": same | {"train.optimizer_arguments": "", "train.gone": 1}, "data": []}
    check_same(then, {"config": same | {"model.forget_bias": 0.0}, "data": []}, tmp_path)
    with pytest.raises(UserError, match=r"model\.forget_bias is 1\.0, but the checkpoints of .* were made with its d"):
        check_same(then, {"config": same | {"model.forget_bias": 1.0}, "data": []}, tmp_path)


def test_another_runs_checkpoint_is_one_sentence_whatever_the_number_of_options_that_differ(tmp_path):
    then, now = ({"config": {f"train.{letter}": n for letter in "abcdefgh"}, "data": []} for n in (1, 2))
    with pytest.raises(UserError) as error:
        check_same(then, now, tmp_path)
    [sentence] = error.value.sentences
    assert "8 options are not those of" in sentence
    assert "train.a, train.b, train.c, train.d, train.e;" in sentence


@pytest.mark.parametrize("tested", ["best", "last"])
def test_cut_to_the_epochs_that_it_has_done_it_evaluates_the_last_of_them(run_config, dataset, tmp_path, tested):
    """It was stopped at the end of an epoch that was not to be evaluated."""
    config, path = run_config.replace(train=dict(evaluate_every=3, tested=tested)), tmp_path / "run"
    longer = Fit(config, dataset, RunFolder.create(path, config), Progress())
    assert not longer.train(StopIn(longer, 6))
    assert not [line for line in lines(path) if line["kind"] == "validation"]
    folder, config = RunFolder.open(path)
    run = Fit(config.replace(train=dict(epochs=1)), dataset, folder, Heard())
    run.resume()
    assert run.train(StopAfter(NEVER))
    assert [line["step"] for line in lines(path) if line["kind"] == "validation"] == [6]
    summary = run.test()
    assert (summary["tested_step"], summary["validation_accuracy"]) == (6, 0.94)
    again = resumed(path, dataset)
    assert again.train(StopAfter(NEVER))
    assert [line["step"] for line in lines(path) if line["kind"] == "validation"] == [6]
