"""Where a step's examples come from: the same ones, whether devices hold them all or hosts bring each its share."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from moejax.sharding import make_mesh, shard_batch
from moejax.training.feed import Shares, epoch_order, from_all, from_shares
from moejax.training.loop import make_keys

BATCH, LENGTH = 8, 3
HOST = {"image": np.arange(84 * 2).reshape(84, 2), "label": np.arange(84)}  # an epoch of 10 batches, and 4 left out
KEY = make_keys(5).order


def shares(where=None, host=HOST) -> Shares:
    return Shares(host, KEY, BATCH, LENGTH, where or jax.numpy.zeros(()).sharding)


def test_a_batch_is_a_slice_of_the_epochs_order():
    data = jax.device_put(HOST)
    for step in (0, 9, 10, 27):
        batch = from_all(BATCH)(data, KEY, jax.numpy.int32(step))(jax.numpy.int32(step))
        start = step % 10 * BATCH
        want = np.asarray(epoch_order(KEY, step // 10, 84))[start : start + BATCH]
        np.testing.assert_array_equal(batch["label"], want)
        np.testing.assert_array_equal(batch["image"], HOST["image"][want])


@pytest.mark.parametrize(("first", "stop"), [(0, 3), (8, 10), (10, 13), (14, 15)])
def test_shares_are_the_batches_of_the_same_steps(first, stop):
    data, brought = jax.device_put(HOST), shares()(first, stop)
    assert brought["image"].shape == (LENGTH, BATCH, 2)
    for step in map(jax.numpy.int32, range(first, stop)):
        want = from_all(BATCH)(data, KEY, jax.numpy.int32(first))(step)
        got = from_shares(LENGTH)(brought, KEY, jax.numpy.int32(first))(step)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
            assert got[name].dtype == want[name].dtype


class Counted(np.ndarray):
    """Counts the numbers that are read of it."""

    read = 0

    def __getitem__(self, index):
        part = np.asarray(super().__getitem__(index))
        Counted.read += part.size
        return part


def counted(rows: int) -> Counted:
    Counted.read = 0
    return HOST["label"][:rows].view(Counted)


def mesh_of_eight():
    devices = jax.devices()
    assert len(devices) == 8, "this test needs the eight virtual devices of conftest.py"
    return make_mesh(2, 4, devices)


def test_a_device_is_brought_its_own_rows_and_no_others():
    where = NamedSharding(mesh_of_eight(), PartitionSpec(None, ("data", "expert")))
    brought = shares(where, {"label": counted(84)})(0, LENGTH)["label"]
    assert Counted.read == LENGTH * BATCH  # each row once, by one device
    assert {part.data.shape for part in brought.addressable_shards} == {(LENGTH, BATCH // 8)}
    np.testing.assert_array_equal(brought, shares()(0, LENGTH)["label"])


@pytest.mark.parametrize(("rows", "of_a_device"), [(80, 10), (84, 84)])
def test_a_batch_to_evaluate_is_dealt_out_where_its_rows_are_even(rows, of_a_device):
    with jax.set_mesh(mesh_of_eight()):
        brought = shard_batch({"label": counted(rows)})["label"]
    assert {part.data.shape for part in brought.addressable_shards} == {(of_a_device,)}
    assert Counted.read == rows  # each row once
    np.testing.assert_array_equal(brought, HOST["label"][:rows])
