"""Checkpoints come back bit for bit, or say in one sentence why not."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from moejax import manifest
from moejax.errors import UserError
from moejax.runs.checkpoint import chosen
from moejax.training.checkpoint import Checkpoints
from moejax.training.loop import TrainState


def state(step: int, shape: tuple[int, ...] = (3, 2)) -> TrainState:
    weights = jax.random.normal(jax.random.key(step), shape)
    return TrainState(jnp.array(step, jnp.int32), {"w": weights}, {"mu": 2 * weights, "count": jnp.array(step)})


def test_a_state_comes_back_bit_for_bit(tmp_path):
    Checkpoints(tmp_path).save(state(5), 0.5)
    restored = Checkpoints(tmp_path).restore(5, state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(5))
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, accuracy in [(1, 0.1), (2, 0.9), (3, 0.2), (4, None), (5, 0.3)]:
        checkpoints.save(state(step), accuracy)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 5]
    assert checkpoints.latest() == 5


def test_without_a_validation_accuracy_the_latest_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(state(step), None)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [3]


def test_every_flipped_byte_of_array_data_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 0.5)
    files = [p for p in (tmp_path / "1").rglob("*") if p.is_file() and "sha256" not in p.name]
    assert files
    for file in files:
        good = file.read_bytes()
        file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(UserError, match="is not what was written"):
            Checkpoints(tmp_path).restore(1, state(0))
        file.write_bytes(good)
    checkpoints.restore(1, state(0))


def test_a_missing_file_is_noticed(tmp_path):
    Checkpoints(tmp_path).save(state(1), 0.5)
    next(p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.name != "sha256.json").unlink()
    with pytest.raises(UserError, match="is not what was written"):
        Checkpoints(tmp_path).restore(1, state(0))


def test_one_whose_manifest_is_gone_does_not_count_and_is_not_passed_over_without_a_word(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 0.9)
    checkpoints.save(state(2), 0.5)
    (tmp_path / "2" / "sha256.json").unlink()
    with pytest.raises(UserError, match=r"2 has no readable sha256\.json, .*; choose another step: 1\."):
        chosen(tmp_path, "last")
    warnings = []
    assert Checkpoints(tmp_path).latest(warnings.append) == 1
    [warning] = warnings
    assert warning.startswith(f"The checkpoint {tmp_path / '2'} has no readable sha256.json")


def test_another_shape_or_dtype_is_refused_by_name(tmp_path):
    Checkpoints(tmp_path).save(state(1), 0.5)
    with pytest.raises(UserError, match=r"holds float32\[3, 2\] for \.model\['w'\] .* needs float32\[4, 2\]"):
        Checkpoints(tmp_path).restore(1, state(0, (4, 2)))
    half = state(0)._replace(model={"w": jnp.zeros((3, 2), jnp.bfloat16)})
    with pytest.raises(UserError, match=r"needs bfloat16\[3, 2\]"):
        Checkpoints(tmp_path).restore(1, half)
    more = state(0)._replace(model={"w": jnp.zeros((3, 2)), "x": jnp.zeros(1)})
    with pytest.raises(UserError, match=r"holds nothing for \.model\['x'\]"):
        Checkpoints(tmp_path).restore(1, more)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def write_half(self, folder, args):
    (folder / "manifest.ocdbt").parent.mkdir(parents=True)
    raise KeyboardInterrupt


def delete_none(folder, ignore_errors=False):
    if not ignore_errors:
        raise KeyboardInterrupt


INTERRUPTED = {
    "before the library writes": (ocp.Checkpointer, "save", interrupt),
    "while the library writes": (ocp.Checkpointer, "save", write_half),
    "before the manifest": (manifest, "digests", interrupt),
    "after the manifest": (manifest.json, "dumps", interrupt),
    "before it gets its name": (Path, "rename", interrupt),
    "while older ones are deleted": (shutil, "rmtree", delete_none),
}


@pytest.mark.parametrize("moment", INTERRUPTED)
def test_a_save_cut_at_any_moment_leaves_an_older_one_and_can_be_made_again(tmp_path, monkeypatch, moment):
    Checkpoints(tmp_path).save(state(1), 0.1)
    Checkpoints(tmp_path).save(state(2), 0.2)
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*INTERRUPTED[moment])
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(state(3), 0.3)
    checkpoints = Checkpoints(tmp_path)
    saved = 3 if moment == "while older ones are deleted" else 2
    assert checkpoints.latest() == saved
    assert sorted(p.name for p in tmp_path.iterdir()) == [str(saved)]
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(saved, state(0)), state(saved))
    checkpoints.save(state(saved + 1), 0.4)
    assert Checkpoints(tmp_path).latest() == saved + 1


def test_the_best_is_kept_though_the_folder_is_opened_again(tmp_path):
    for step, accuracy in [(1, 0.1), (2, 0.9), (3, None), (4, 0.9), (5, 0.3), (6, None)]:
        Checkpoints(tmp_path).save(state(step), accuracy)
    assert Checkpoints(tmp_path).steps() == [4, 6]  # of two alike the later one


def test_a_damaged_newest_one_gives_way_to_the_one_before_and_is_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_all=True)
    for step in (1, 2, 3):
        checkpoints.save(state(step), 0.5, {"about": b"%d" % step})
    (tmp_path / "3" / "about").write_text("4")
    (tmp_path / "2" / "sha256.json").write_text("[]")
    warnings = []
    assert Checkpoints(tmp_path).latest(warnings.append) == 1
    assert [str(tmp_path / step) in warning for step, warning in zip("32", warnings, strict=True)] == [True, True]
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2.damaged", "3.damaged"}
    checkpoints = Checkpoints(tmp_path, keep_all=True)
    checkpoints.save(state(2), 0.5, {"about": b"2"})
    assert checkpoints.read(2, "about") == b"2"
    assert Checkpoints(tmp_path).latest() == 2


def test_none_that_is_whole_is_an_error_and_no_new_start(tmp_path):
    Checkpoints(tmp_path).save(state(1), 0.5)
    next(p for p in (tmp_path / "1").rglob("d/*") if p.is_file()).write_bytes(b"")
    with pytest.raises(UserError, match="No checkpoint is whole: delete"):
        Checkpoints(tmp_path).latest()
    assert (tmp_path / "1").exists()


def test_a_changed_accuracy_does_not_decide_what_is_dropped(tmp_path):
    Checkpoints(tmp_path).save(state(1), 0.9)
    manifest = json.loads((tmp_path / "1" / "sha256.json").read_text())
    (tmp_path / "1" / "sha256.json").write_text(json.dumps(manifest | {"accuracy": 0.1}))
    Checkpoints(tmp_path).save(state(2), 0.5)
    assert (tmp_path / "1").exists()
    with pytest.raises(UserError, match="no readable sha256"):
        Checkpoints(tmp_path).restore(1, state(0))


def test_another_runs_checkpoint_of_that_step_is_not_taken_for_this_ones(tmp_path):
    Checkpoints(tmp_path).save(state(1), 0.9)
    with pytest.raises(UserError, match="of another run"):
        Checkpoints(tmp_path).save(state(1), 0.9)


def test_files_are_read_once_to_see_that_they_are_whole(tmp_path, monkeypatch):
    Checkpoints(tmp_path).save(state(1), 0.5)
    read, digests = [], manifest.digests
    monkeypatch.setattr(manifest, "digests", lambda folder: read.append(folder) or digests(folder))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(checkpoints.latest(), state(0))
    assert read == [tmp_path / "1"]
