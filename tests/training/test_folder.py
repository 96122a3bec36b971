"""A run's folder: nothing half written, nothing overwritten, and a resumed run starts from clean lines."""

import json

import numpy as np
import pytest

from moejax.config import to_json
from moejax.errors import UserError
from moejax.files import packed
from moejax.training.environment import describe_cpu, environment
from moejax.training.folder import RunFolder


def test_a_run_is_not_overwritten(config, tmp_path):
    RunFolder.create(tmp_path / "run", config)
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        RunFolder.create(tmp_path / "run", config)


def test_a_folder_with_a_blank_is_named_as_one_word(config, tmp_path):
    RunFolder.create(tmp_path / "my run", config)
    with pytest.raises(UserError, match=r"continue it with --resume '.+my run' or choose another --out"):
        RunFolder.create(tmp_path / "my run", config)


def test_a_folder_that_cannot_be_made_is_one_sentence(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to --out .*file/run"):
        RunFolder.create(tmp_path / "file" / "run", config)


def test_opening_gives_the_configuration_back_or_says_what_is_wrong_with_it(config, tmp_path):
    path = RunFolder.create(tmp_path / "run", config).path
    assert RunFolder.open(path)[1] == config
    (path / "config.json").write_text('{"train": {"epochs": "x", "speed": 3}}')
    with pytest.raises(UserError) as raised:
        RunFolder.open(path)
    assert len(raised.value.sentences) == 2
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_rewinding_drops_later_lines_tests_and_a_line_cut_short(config, tmp_path):
    folder = RunFolder.create(tmp_path / "run", config)
    log = folder.path / "metrics.jsonl"
    numbers = {"epoch": 1.0, "loss": 0.5, "accuracy": 0.5}
    for kind, step in [("train", 3), ("train", 6), ("validation", 6)]:
        folder.log({"kind": kind, "step": step, "seconds": step / 2, **numbers})
    saved = log.read_bytes()
    for kind, step in [("train", 9), ("test", 6)]:
        folder.log({"kind": kind, "step": step, "seconds": step / 2, **numbers})
    with open(log, "a") as file:
        file.write('{"kind": "tra')
    assert [record["step"] for record in folder.read_log()] == [3, 6, 6, 9, 6]
    assert folder.rewind(saved)
    assert [(line["kind"], line["step"]) for line in folder.read_log()] == [
        ("train", 3),
        ("train", 6),
        ("validation", 6),
    ]
    log.write_bytes(saved[5:])
    assert not folder.rewind(saved)
    assert log.read_bytes() == saved
    log.unlink()
    assert folder.rewind(b"")
    assert log.read_bytes() == b""


@pytest.mark.parametrize(
    "line", [b'{"kind": "tra', b"[1]", b"\xff\xfe", b'{"kinD": "train", "step": 3}', b'{"kind": "train", "step": "3"}']
)
def test_only_an_unfinished_last_line_is_dropped(config, tmp_path, line):
    folder = RunFolder.create(tmp_path / "run", config)
    record = {"kind": "train", "step": 3, "seconds": 1.5, "epoch": 1.0, "loss": 0.5, "accuracy": 0.5}
    folder.log(record)
    log = folder.path / "metrics.jsonl"
    good = log.read_bytes()
    log.write_bytes(good + line)
    assert folder.read_log() == [record]
    log.write_bytes(good + line + b"\n" + good)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is not what was written"):
        folder.read_log()


def test_what_is_no_number_is_never_written_as_json(config, tmp_path):
    folder = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.log({"kind": "train", "loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_summary({"test_loss": float("inf")})


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_summary_or_config_is_one_sentence(config, tmp_path, content):
    folder = RunFolder.create(tmp_path / "run", config)
    (folder.path / "summary.json").write_bytes(content)
    with pytest.raises(UserError, match=r"summary\.json is not what was written; delete it"):
        folder.read_summary()
    (folder.path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        RunFolder.open(folder.path)


def test_arrays_come_back_and_no_partial_file_stays(config, tmp_path):
    folder = RunFolder.create(tmp_path / "run", config)
    assert folder.read_summary() is None
    folder.write("routing.npz", packed({"step": np.arange(3)}))
    folder.write_summary({"test_accuracy": 1.0})
    with np.load(folder.path / "routing.npz") as arrays:
        np.testing.assert_array_equal(arrays["step"], [0, 1, 2])
    assert folder.read_summary() == {"test_accuracy": 1.0}
    assert not list(folder.path.glob("*partial*"))


def test_a_finished_run_is_held_to_what_was_written(config, tmp_path):
    folder = RunFolder.create(tmp_path / "run", config)
    folder.write_summary({"test_accuracy": 0.5})
    (folder.path / "summary.json").write_text('{"test_accuracy": 0.6}')
    with pytest.raises(UserError, match=r"summary\.json is not what was written; delete it, and --resume .* again"):
        folder.read_summary()
    (folder.path / "config.json").write_text(to_json(config.replace(seed=1)))
    with pytest.raises(UserError, match=r"config\.json is not what was written; set it back, or, if you have changed"):
        RunFolder.open(folder.path)
    (folder.path / "metrics.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is not what was written\."):
        folder.read_log()
    (folder.path / "sha256.json").unlink()
    assert RunFolder.open(folder.path)[1].seed == 1
    assert folder.read_summary() == {"test_accuracy": 0.6}


def test_the_environment_names_versions_and_device():
    env = environment()
    assert {"python", "jax", "flax", "device", "cores", "commit"} <= env.keys()
    assert all(isinstance(value, str | int) for value in env.values())


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
def test_a_run_in_groups_records_what_multiplies(dispatch, config, tmp_path):
    config = config.replace(moe=dict(dispatch=dispatch))
    env = json.loads((RunFolder.create(tmp_path / "run", config).path / "env.json").read_text())
    assert ("grouped_matmul" in env) == (dispatch == "grouped")
    if dispatch == "grouped":
        assert env["grouped_matmul"]["float32"] == "cpu_blas"
        assert env["grouped_matmul"]["bfloat16"] in ("cpu_blas", "cpu_blocks")


def test_a_cpu_is_told_from_others_of_its_name():
    def said(flags: str) -> str:
        return f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n"

    assert describe_cpu(said("fpu avx2 avx512f")) == "AMD EPYC, AVX-512"
    assert describe_cpu(said("fpu avx avx2")) == "AMD EPYC, AVX2"
    assert describe_cpu(said("fpu")) == "AMD EPYC"
    assert describe_cpu("processor : 0\nFeatures : fp asimd\n") == ""


def test_what_a_killed_run_left_undone_is_done_when_it_goes_on(tmp_path, config):
    folder = RunFolder.create(tmp_path / "run", config)
    folder.write_summary({})
    (folder.path / "sha256.json").unlink()
    (folder.path / ".metrics.jsonl.0a1b2c3d.partial").write_text("", encoding="utf-8")
    with folder:
        folder.seal()
    assert (folder.path / "sha256.json").exists()
    assert not list(folder.path.glob(".*.partial"))
