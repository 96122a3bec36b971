"""A run gives the same numbers however it spreads over devices, and can go on under another strategy."""

import dataclasses
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from moejax.config import MoeConfig, ParallelConfig
from moejax.errors import UserError
from moejax.training import parallel
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.interrupt import StopSignal
from moejax.training.optimizer import make_optimizer, relayout
from moejax.training.progress import Progress

STEPS = 20
WAYS = {
    "8 × 1": ParallelConfig(data=8),
    "2 × 4": ParallelConfig(data=2, expert=4),
    "4 × 2": ParallelConfig(data=4, expert=2),
    "1 × 8": ParallelConfig(data=1, expert=8),
    "pmap": ParallelConfig("pmap", data=8),
}
# Groups of one image, and room for three quarters of what a balanced choice would need.
SPARSE = MoeConfig(layer="sparse", num_experts=8, hidden=8, k=2, group_size=25, capacity_factor=0.75)
LAYERS = {
    "einsum": SPARSE,
    "gather": dataclasses.replace(SPARSE, dispatch="gather", importance_weight=0.1, usage_weight=0.1),
    "soft": MoeConfig(layer="soft", num_experts=8, hidden=8, slots=2, scale=4.0),
    "dense": MoeConfig(layer="dense", num_experts=8, hidden=8, entropy_weight=0.1),
}


@contextmanager
def devices(count: int):
    """So many devices to choose from; an error, not a skip, if they are missing."""
    assert len(jax.devices()) == 8, "these tests need the eight virtual devices of conftest.py"
    before = jax.config.jax_default_device
    jax.config.update("jax_default_device", before if count == 1 else None)
    yield
    jax.config.update("jax_default_device", before)


def configure(config, moe: MoeConfig, way: ParallelConfig = ParallelConfig()):  # noqa: B008
    train = dataclasses.replace(config.train, epochs=4, batch_size=16, chunk=5, shift=0.0, evaluate_every=2)
    return dataclasses.replace(config, moe=moe, train=train, parallel=way)


def start(path, config, dataset, way: ParallelConfig | None) -> Fit:
    """A run on one device (None) or on all."""
    with devices(1 if way is None else 8):
        return Fit(dataclasses.replace(config, parallel=way or ParallelConfig()), dataset, *folder(path, config))


def folder(path, config) -> tuple[RunFolder, Progress]:
    return RunFolder(path) if path.exists() else RunFolder.create(path, config), Progress()


@pytest.fixture(scope="module")
def alone(config, dataset, tmp_path_factory):
    """The runs on one device, by layer."""
    runs = {}

    def run(layer: str) -> Fit:
        if layer not in runs:
            path = tmp_path_factory.mktemp("alone") / layer
            runs[layer] = start(path, configure(config, LAYERS[layer]), dataset, None)
            assert runs[layer].train(StopSignal())
        return runs[layer]

    return run


def parameters(fit: Fit) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(fit.state.model)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(fit: Fit, other: Fit) -> None:
    assert int(fit.state.step) == int(other.state.step) == STEPS
    ours, theirs = parameters(fit), parameters(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    for name in ("dropped", "load", "gate_entropy"):
        a, b = fit.history.to_arrays()[name], other.history.to_arrays()[name]
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    ours, theirs = ([r for r in f.folder.read_log() if r["kind"] == "validation"] for f in (fit, other))
    assert [r["accuracy"] for r in ours] == [r["accuracy"] for r in theirs]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_devices_gives_the_same_run(alone, config, dataset, tmp_path, layer, way):
    fit = start(tmp_path / "run", configure(config, LAYERS[layer]), dataset, WAYS[way])
    assert fit.train(StopSignal())
    assert_same_run(fit, alone(layer))
    if layer in ("einsum", "gather"):
        assert (fit.history.to_arrays()["dropped"] > 0.05).all()
