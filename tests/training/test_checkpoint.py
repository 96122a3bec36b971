"""Checkpoints come back bit for bit, or say in one sentence why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.errors import UserError
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


def test_one_that_was_not_written_to_its_end_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 0.9)
    checkpoints.save(state(2), 0.5)
    (tmp_path / "2" / "sha256.json").unlink()
    assert Checkpoints(tmp_path).latest() == 1


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
