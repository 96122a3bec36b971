"""The scanned loop: the same bits however it is cut, one program, a donated state, a pure order of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax.models import build_model
from moejax.training.early_stop import early_stop_of
from moejax.training.feed import epoch_order, from_all
from moejax.training.loop import (
    TrainState,
    make_chunk,
    make_init,
    make_keys,
    make_update,
    parameter_key,
)
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

STEPS = 6  # of 15 examples: one epoch of 90


@pytest.fixture(scope="module")
def parts(config, dataset):
    """(makes a fresh state, the update, the chunk, the data on the device); compiled once for all tests here."""
    optimizer = make_optimizer(config.train, 2 * STEPS)

    init = make_init(lambda rngs: build_model(config, dataset.num_classes, rngs), optimizer)

    def fresh(seed: int = 0) -> TrainState:
        return init(parameter_key(seed))

    update = make_update(make_objective(config), optimizer)
    return fresh, update, make_chunk(update, from_all(15), STEPS), jax.device_put(dataset.train)


def assert_same_bits(a, b):
    for (path, x), (_, y) in zip(jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


def test_cutting_an_epoch_into_other_chunks_changes_no_bit(parts):
    fresh, _, chunk, data = parts
    whole, _ = chunk(fresh(), data, make_keys(0), STEPS)
    cut = fresh()
    for stop in (1, 4, STEPS):
        cut, _ = chunk(cut, data, make_keys(0), stop)
    assert_same_bits(whole, cut)


def test_two_runs_of_one_seed_agree_and_another_seed_differs(parts):
    fresh, _, chunk, data = parts
    first, again = (chunk(fresh(), data, make_keys(0), 3)[0] for _ in range(2))
    assert_same_bits(first, again)
    other, _ = chunk(fresh(), data, make_keys(1), 3)
    assert not np.array_equal(other.model.head.kernel[...], first.model.head.kernel[...])


def test_one_program_serves_all_chunks_of_all_seeds_and_the_state_is_donated(parts):
    fresh, _, chunk, data = parts
    state = fresh()
    for seed, stop in enumerate((3, 4, 6, 9, 12)):  # two epochs
        before = state
        state, _ = chunk(state, data, make_keys(seed), stop)
        assert int(state.step) == stop
        assert before.model.head.kernel[...].is_deleted()
    assert chunk._cache_size() == 1


def test_metrics_have_a_row_for_each_step_taken_and_zeros_after(parts):
    fresh, _, chunk, data = parts
    _, metrics = chunk(fresh(), data, make_keys(0), 4)
    assert metrics.loss.shape == metrics.accuracy.shape == (STEPS,)
    assert metrics.load.shape == (STEPS, 1, 2)
    np.testing.assert_allclose(metrics.load[:4].sum(-1), 1, rtol=1e-6)
    assert not metrics.load[4:].any()
    assert not metrics.loss[4:].any()


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own():
    keys = make_keys(7)
    first, second = (np.asarray(epoch_order(keys.order, epoch, 50)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, epoch_order(make_keys(7).order, 0, 50))
    assert not np.array_equal(first, epoch_order(make_keys(8).order, 0, 50))


@pytest.mark.parametrize(
    "layer", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dense", "soft")), "sparse"]
)
def test_bfloat16_trains_with_float32_parameters(config, dataset, layer):
    config = config.replace(moe={"layer": layer}, train={"dtype": "bfloat16"})
    model = jax.jit(lambda: build_model(config, dataset.num_classes, nnx.Rngs(0)))()
    batch = {name: jnp.asarray(array[:15]) for name, array in dataset.train.items()}
    objective = jax.jit(jax.value_and_grad(make_objective(config), has_aux=True))
    (loss, metrics), gradient = objective(model, batch, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert loss.dtype == metrics.load.dtype == jnp.float32
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("moe", [dict(router="sigmoid"), dict(layer="dense", final_temperature=0.1)], ids=str)
def test_after_an_early_stop_nothing_changes_not_even_what_routers_change_by_themselves(config, dataset, moe):
    stopping = config.replace(moe=moe, train=dict(stop_below=1e6, warmup=0.0))  # the first loss that has risen
    optimizer = make_optimizer(stopping.train, STEPS)
    state = make_init(lambda rngs: build_model(stopping, dataset.num_classes, rngs), optimizer)(parameter_key(0))
    update = jax.jit(make_update(make_objective(stopping), optimizer, STEPS))
    batch = {name: array[:15] for name, array in dataset.train.items()}
    stop = early_stop_of(state.optimizer)
    state = state._replace(optimizer=jax.tree.map(lambda a: a, state.optimizer))
    models = []
    for step in range(STEPS):
        state, _ = update(state, batch, jax.random.key(step))
        stop = early_stop_of(state.optimizer)
        models.append((bool(stop.stopped), state.model))
    stopped = [model for ended, model in models if ended]
    assert 2 <= len(stopped) < STEPS
    assert_same_bits(stopped[0], stopped[-1])
