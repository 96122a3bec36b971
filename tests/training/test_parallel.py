"""A run gives the same numbers however it spreads over devices, and can go on under another strategy."""

import itertools
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seldom import slow_but_for
from small_run import StopAfter

from benchmarks.suite.crossing import bytes_crossing
from moejax.config.training import TrainOptions
from moejax.errors import UserError
from moejax.interrupt import StopSignal
from moejax.models import build_model
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.loop import make_init, parameter_key
from moejax.training.optimizer import make_optimizer, relayout
from moejax.training.parallel import Parallel
from moejax.training.progress import Progress

STEPS = 20


WAYS = {
    "8 × 1": dict(data=8),
    "2 × 4": dict(data=2, expert=4),
    "4 × 2": dict(data=4, expert=2),
    "1 × 8": dict(data=1, expert=8),
    "pmap": dict(strategy="pmap", data=8),
}
# Groups of one image, and room for three quarters of what a balanced choice would need.
SPARSE = dict(layer="sparse", num_experts=8, hidden=8, k=2, group_size=25, capacity_factor=0.75)
LAYERS = {
    "einsum": SPARSE,
    "gather": SPARSE | dict(dispatch="gather", importance_weight=0.1, usage_weight=0.1),
    "grouped": SPARSE | dict(dispatch="grouped", usage_weight=0.1, capacity_factor=1.25),
    "relu": SPARSE | dict(router="relu", dispatch="gather", l1_reg_coeff_init=1e-3),
    "soft": dict(layer="soft", num_experts=8, hidden=8, slots=2, scale=4.0),
    "dense": dict(layer="dense", num_experts=8, hidden=8, entropy_weight=0.1),
}


@contextmanager
def devices(count: int):
    """So many devices to choose from; an error, not a skip, if they are missing."""
    assert len(jax.devices()) == 8, "these tests need the eight virtual devices of conftest.py"
    before = jax.config.jax_default_device
    jax.config.update("jax_default_device", before if count == 1 else None)
    try:
        yield
    finally:
        jax.config.update("jax_default_device", before)


def configure(config, moe: dict, way: dict | None = None):
    train = dict(epochs=4, batch_size=16, chunk=5, shift=0.0, evaluate_every=2)
    return config.replace(moe=moe, train=train, parallel=way or {})


def start(path, config, dataset, way: dict | None) -> Fit:
    """A run on one device (None) or on all."""
    with devices(1 if way is None else 8):
        return Fit(config.replace(parallel=way or {}), dataset, *folder(path, config))


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


@pytest.mark.parametrize(("way", "layer"), slow_but_for(itertools.product(WAYS, LAYERS), ("2 × 4", "gather")))
def test_any_number_of_devices_gives_the_same_run(alone, config, dataset, tmp_path, layer, way):
    fit = start(tmp_path / "run", configure(config, LAYERS[layer]), dataset, WAYS[way])
    assert fit.train(StopSignal())
    assert_same_run(fit, alone(layer))
    if layer in ("einsum", "gather"):
        assert (fit.history.to_arrays()["dropped"] > 0.05).all()


@pytest.mark.slow
def test_hosts_that_bring_shares_give_the_same_run(alone, config, dataset, tmp_path):
    way = WAYS["2 × 4"] | {"reads": "share"}
    fit = start(tmp_path / "run", configure(config, LAYERS["gather"]), dataset, way)
    fit.train(StopAfter(1))
    fit = start(tmp_path / "run", configure(config, LAYERS["gather"]), dataset, way)
    fit.resume()
    assert fit.train(StopSignal())
    assert_same_run(fit, alone("gather"))


@pytest.mark.slow
def test_a_run_goes_on_under_another_strategy(alone, config, dataset, tmp_path):
    moe = LAYERS["gather"]
    fit = start(tmp_path / "run", configure(config, moe), dataset, WAYS["1 × 8"])
    fit.train(StopAfter(0))
    for way in (WAYS["pmap"], WAYS["4 × 2"], None):
        before, fit = fit, start(tmp_path / "run", configure(config, moe), dataset, way)
        fit.resume()
        assert int(fit.state.step) == int(before.state.step)
        for name, array in parameters(fit).items():
            np.testing.assert_array_equal(array, parameters(before)[name])
        fit.train(StopAfter(0))
    assert_same_run(fit, alone("gather"))


def test_an_optimisers_state_is_the_same_numbers_in_either_form(config):
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 2))
    model = {"a": {"experts": a}, "b": b, "c": jnp.float32(2)}
    for train in (config.train, TrainOptions(clip_norm=None, frozen="['b']", stop_rise=0.5), TrainOptions(average=0.5)):
        forms = []
        for flat in (True, False):
            optimizer = make_optimizer(train, 10, flat=flat)
            init, update = jax.jit(optimizer.init), jax.jit(optimizer.update)
            forms.append(update(model, init(model), model, value=jnp.float32(0.5))[1])
        one, other = forms
        assert jax.tree.structure(one) != jax.tree.structure(other)
        for state, like in ((one, other), (other, one), (one, one)):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), relayout(state, like), like)


def test_experts_and_what_the_optimiser_keeps_of_them_lie_over_expert(config, dataset, tmp_path):
    fit = start(tmp_path / "run", configure(config, SPARSE), dataset, WAYS["2 × 4"])
    mine = {}
    for path, leaf in jax.tree.leaves_with_path(fit.state):
        held = {shard.data.size for shard in leaf.addressable_shards}
        mine.setdefault(".experts." in jax.tree_util.keystr(path), set()).add(leaf.size / held.pop())
        assert not held
    assert mine == {True: {4}, False: {1}}


def test_what_an_optimiser_keeps_of_frozen_parameters_lies_nowhere(config):
    spread = configure(config, SPARSE, WAYS["2 × 4"]).replace(train={"frozen": "stem"})
    init = make_init(lambda rngs: build_model(spread, 4, rngs), make_optimizer(spread.train, 10, flat=False))
    state = jax.eval_shape(init, parameter_key(0))
    with devices(8):
        placed = Parallel.of(spread).shapes(state)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(placed))


def test_a_program_over_a_mesh_brings_neither_tokens_nor_experts_together(config, dataset, tmp_path):
    fit = start(tmp_path / "run", configure(config, SPARSE), dataset, WAYS["2 × 4"])
    crossing = bytes_crossing(fit.chunk.as_text())
    assert crossing["all-to-all"] > 0
    assert crossing.get("all-gather", 0) == 0


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        (dict(data=4), r"is 4 × 1, but there are 8 devices; use 8 × 1\."),
        (dict(data=8, expert=2), r"is 8 × 2, but there are 8 devices; use 4 × 2\."),
        (dict(expert=3), r"parallel\.expert is 3, which does not divide moe\.num_experts, 8; use 2\."),
        (dict(strategy="pmap", reads="share"), r"parallel\.reads is share, but parallel\.strategy pmap .*; use jit\."),
        (dict(strategy="pmap", expert=2), r"parallel\.strategy pmap copies all experts; use jit, or 1\."),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config, dataset, tmp_path, way, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        start(tmp_path / "run", configure(config, SPARSE), dataset, way)
    assert len(raised.value.sentences) == 1


def test_a_batch_or_groups_that_devices_cannot_share_are_one_sentence(config, dataset, tmp_path):
    uneven = configure(config, SPARSE)
    uneven = uneven.replace(train={"batch_size": 15})
    with pytest.raises(UserError, match=r"train\.batch_size is 15, which 8 devices cannot share evenly; use 16\."):
        start(tmp_path / "batch", uneven, dataset, WAYS["8 × 1"])
    groups = configure(config, SPARSE | {"group_size": 20})
    with pytest.raises(UserError, match=r"moe\.group_size is 20, .* the 50 tokens of a device .*; use 25, or"):
        start(tmp_path / "groups", groups, dataset, WAYS["pmap"])


def test_pmap_is_for_one_process(config, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sentence = r"parallel\.strategy is pmap, but there are 2 processes; use jit\."
    with devices(8), pytest.raises(UserError, match=sentence):
        Parallel.of(configure(config, SPARSE, WAYS["pmap"]))


@pytest.mark.slow
def test_groups_that_reach_across_devices_are_those_of_one_device(config, dataset, tmp_path):
    """16 images of 25 tokens in groups of 64, the last one padded; 7 groups on 8 devices."""
    moe = SPARSE | {"group_size": 64, "priority": "weight"}
    ways = (None, WAYS["2 × 4"])
    runs = [start(tmp_path / str(i), configure(config, moe), dataset, way) for i, way in enumerate(ways)]
    for fit in runs:
        fit.train(StopSignal())
    assert_same_run(*runs)
    assert (runs[0].history.to_arrays()["dropped"] > 0.05).all()
