"""How many devices a run takes where nobody says: every preset runs on 2, 4 and 8, with the numbers of one device."""

import math

import jax
import numpy as np
import pytest

from moejax.config import Config
from moejax.errors import UserError
from moejax.presets import PRESETS
from moejax.training import parallel
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.objective import StepMetrics
from moejax.training.parallel import Parallel
from moejax.training.pmap import keeps_groups
from moejax.training.progress import Progress
from moejax.training.sizes import check


@pytest.fixture
def on(monkeypatch):
    """So many devices to choose from."""
    return lambda count: monkeypatch.setattr(parallel, "available_devices", lambda: jax.devices()[:count])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_every_number_of_devices(on, name):
    config = PRESETS[name].config
    for count in (2, 4, 8):
        on(count)
        both = math.gcd(config.moe.num_experts, config.train.batch_size)
        experts = [n for n in (1, 2, 4, 8) if n <= count and both % n == 0]
        for way in ({"strategy": "pmap"}, *({"expert": n} for n in experts)):
            spread = config.replace(parallel=way)
            chosen = Parallel.of(spread)
            used = chosen.mesh.size
            assert config.train.batch_size % used == 0
            assert keeps_groups(spread, used)
            assert used > 1
            assert (chosen.note is None) == (used == count)
            if way.get("strategy") != "pmap" and config.train.batch_size % count == 0:
                assert used == count


def one_step(path, config: Config, dataset, monkeypatch, count: int) -> tuple[Fit, StepMetrics]:
    monkeypatch.setattr(parallel, "available_devices", lambda: jax.devices()[:count])
    fit = Fit(config, dataset, RunFolder.create(path, config), Progress())
    fit.state, metrics = fit.chunk(fit.state, fit.examples(0, 1), fit.keys, 1)
    return fit, metrics


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [True, False])
def test_the_sparse_preset_under_pmap_makes_the_step_of_one_device(dataset, tmp_path, monkeypatch, narrow):
    """In groups of 16, as many tokens as its experts are wide by four; with a small stem and one block if narrow."""
    config = PRESETS["mnist_sparse"].config
    if narrow:
        config = config.replace(model=dict(stem=2, width=8, depth=1))
    train = dict(epochs=1, shift=0.0, chunk=1, warmup=0.0)
    alone, want = one_step(tmp_path / "alone", config.replace(train=train), dataset, monkeypatch, 1)
    spread = config.replace(train=train, parallel={"strategy": "pmap"})
    fit, metrics = one_step(tmp_path / "pmap", spread, dataset, monkeypatch, 8)
    # 16 images of 25 tokens are the fewest that make whole groups of 16.
    assert fit.parallel.mesh.size == 4
    assert fit.parallel.note.startswith("4 of 8 devices share a batch evenly")
    for ours, theirs in zip(jax.tree.leaves(fit.state.model), jax.tree.leaves(alone.state.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    np.testing.assert_allclose(metrics.dropped, want.dropped, atol=1e-6)
    assert (want.dropped > 0).all()


@pytest.mark.parametrize(
    ("batch", "way", "used"),
    [(100, {}, 5), (100, {"expert": 2}, 4), (7, {"strategy": "pmap"}, 7)],
)
def test_as_many_devices_as_share_a_batch_evenly(on, config, batch, way, used):
    on(8)
    train = dict(batch_size=batch)
    moe = dict(layer="dense", num_experts=4)
    assert Parallel.of(config.replace(train=train, moe=moe, parallel=way)).mesh.size == used


def test_where_none_share_it_or_several_processes_must_is_one_sentence(on, config, monkeypatch):
    on(8)
    train = dict(batch_size=15)
    moe = dict(layer="dense", num_experts=2)
    odd = config.replace(train=train, moe=moe, parallel=dict(expert=2))
    with pytest.raises(UserError, match=r"train\.batch_size is 15, which 8 devices cannot share evenly; use 16\."):
        Parallel.of(odd)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"is 15, which the 8 devices of 2 processes cannot share evenly; choose"):
        Parallel.of(odd.replace(parallel={"expert": 1}))


def test_what_reaches_across_shares_is_seen(on, config):
    """An encoder packs each share by itself; a balanced plan is a group's, whatever the dispatch."""
    on(8)
    way = {"strategy": "pmap", "data": 8}
    moe = {"layer": "sparse", "num_experts": 2, "k": 1, "hidden": 8, "dispatch": "grouped"}
    pmap = config.replace(moe=moe, train={"batch_size": 8}, parallel=way)
    assert keeps_groups(pmap, 8)
    assert not keeps_groups(pmap.replace(moe={"router": "sinkhorn"}), 8)
    minilm = PRESETS["mrpc_minilm"].config.replace(parallel=way)
    assert keeps_groups(minilm, 8)
    slots = minilm.replace(moe={"dispatch": "gather"})
    with pytest.raises(UserError, match=r"encoder packs .* that reach across devices; use grouped, or strategy jit\."):
        Parallel.of(slots)


def test_devices_that_do_not_fit_leave_no_folder_behind(on, config, dataset):
    on(8)
    wrong = config.replace(parallel={"data": 3})
    with pytest.raises(UserError, match=r"is 3 × 1, but there are 8 devices; use 8 × 1\."):
        check(wrong, dataset)
