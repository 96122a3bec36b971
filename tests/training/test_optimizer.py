"""The optimisers: normalised descent by hand, Adam with L2 by its formula, the early stop against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax.config.training import TrainOptions
from moejax.experts import MLP
from moejax.layers import SparseMoE
from moejax.training.average import averaged
from moejax.training.early_stop import early_stop, early_stop_of, stopped_after
from moejax.training.loop import TrainState
from moejax.training.optimizer import clip_by_global_norm, make_optimizer, normalize_experts


class Network(nnx.Module):
    """Two layers of three experts, of which one also has a shared expert."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = SparseMoE(2, 3, lambda rngs: MLP(2, 4, rngs=rngs), rngs=rngs)
        self.second = SparseMoE(2, 3, lambda rngs: MLP(2, 4, rngs=rngs), rngs=rngs)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), jax.eval_shape(Network))


def arrays(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_each_expert_of_each_layer_is_divided_by_its_own_norm(network):
    network.first.experts.up.kernel[...] = network.first.experts.up.kernel[...].at[1].set(0)
    network.first.experts.up.bias[...] = network.first.experts.up.bias[...].at[1].set(0)
    network.first.experts.down.kernel[...] = network.first.experts.down.kernel[...].at[1].set(0)
    network.first.experts.down.bias[...] = network.first.experts.down.bias[...].at[1].set(0)
    transform = normalize_experts()
    got = arrays(jax.jit(lambda n: transform.update(n, transform.init(n))[0])(network))
    before = arrays(network)
    for layer in ("first", "second"):
        mine = [name for name in before if name.startswith(f".{layer}.experts.")]
        assert len(mine) == 4
        for e in range(3):
            norm = np.sqrt(sum((before[name][e] ** 2).sum() for name in mine))
            for name in mine:
                want = np.zeros_like(before[name][e]) if (layer, e) == ("first", 1) else before[name][e] / norm
                np.testing.assert_allclose(got[name][e], want, rtol=1e-5)
    for name in before:
        if ".experts." not in name:
            np.testing.assert_array_equal(got[name], before[name])


def test_normalised_descent_moves_experts_by_one_rate_and_routers_by_another(network):
    train = TrainOptions(
        optimizer="normalized", learning_rate=0.5, router_learning_rate=3.0, schedule="constant", warmup=0.0
    )
    optimizer = make_optimizer(train, 10)
    change = arrays(jax.jit(lambda n: optimizer.update(n, optimizer.init(n), n, value=jnp.float32(1))[0])(network))
    mine = [name for name in change if name.startswith(".second.experts.")]
    for e in range(3):
        np.testing.assert_allclose(sum((change[name][e] ** 2).sum() for name in mine), 0.25, rtol=1e-5)
    gradient = arrays(network)
    np.testing.assert_allclose(change[".second.router.kernel.value"], -3 * gradient[".second.router.kernel.value"])


def test_adam_adds_the_decay_to_the_gradient():
    train = TrainOptions(optimizer="adam", learning_rate=0.1, weight_decay=0.5, schedule="constant", warmup=0.0)
    optimizer, weight = make_optimizer(train, 10), jnp.array([2.0, -1.0])
    state = optimizer.init(weight)
    m, v, want = np.zeros(2), np.zeros(2), np.asarray(weight, np.float64)
    for step, gradient in enumerate(([1.0, 1.0], [-0.5, 0.2]), start=1):
        change, state = optimizer.update(jnp.array(gradient), state, weight, value=jnp.float32(1))
        weight = optax.apply_updates(weight, change)
        g = np.array(gradient) + 0.5 * want
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        want = want - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(weight, want, rtol=1e-5)


def steps_until_stop(losses, rise, below):
    """The authors' loop: a step is taken unless the run breaks off before it."""
    least = np.inf
    for step, loss in enumerate(losses):
        if loss <= least:
            least = loss
        elif (rise is not None and loss > least + np.float32(rise)) or (below is not None and loss <= below):
            return step
    return len(losses)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1.0, 1e19, 1e30])
def test_a_gradient_of_any_size_becomes_one_of_length_1(size):
    gradient = {"experts": {"kernel": jnp.float32(size) * jnp.array([[3.0, 4.0], [0.0, 0.0]])}}
    paths = nnx.Dict(experts=nnx.Dict(kernel=nnx.Param(gradient["experts"]["kernel"])))
    change, _ = normalize_experts().update(paths, normalize_experts().init(paths), None)
    np.testing.assert_allclose(change.experts.kernel[...], [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


losses = st.lists(st.sampled_from([0.25, 0.3125, 0.375, 0.5, 0.53125, 0.75]), min_size=1, max_size=12)


@settings(max_examples=50)
@given(losses, st.sampled_from([None, 0.0625]), st.sampled_from([None, 0.3125]))
def test_the_early_stop_takes_the_steps_of_the_authors_loop(losses, rise, below):
    optimizer = early_stop(optax.sgd(1.0), rise, below)
    weight = jnp.zeros(())
    state = optimizer.init(weight)
    for loss in losses:
        change, state = optimizer.update(jnp.ones(()), state, weight, value=jnp.float32(loss))
        weight = weight + change
    want = steps_until_stop(losses, rise, below)
    assert (float(-weight), int(early_stop_of(state).steps)) == (want, want)
    assert bool(early_stop_of(state).stopped) == (want < len(losses))


def test_the_early_stop_by_hand():
    # .5 is the least so far; .51 is within .02; .53 is not.
    assert steps_until_stop([0.7, 0.5, 0.51, 0.53, 0.1], 0.02, None) == 3
    # .31 is the least and goes on; .312 is not the least and low enough.
    assert steps_until_stop([0.7, 0.31, 0.312], 0.02, 0.314) == 2


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "normalized", "optax.sgd"])
def test_every_optimiser_stops_where_it_is_told_to(network, optimizer):
    train = TrainOptions(warmup=0.0, optimizer=optimizer, stop_rise=0.1)
    transform = make_optimizer(train, 10)
    state = jax.jit(transform.init)(network)
    update = jax.jit(lambda state, loss: transform.update(network, state, network, value=loss))
    for loss, moves in ((1.0, True), (1.05, True), (1.2, False), (0.5, False)):
        change, state = update(state, jnp.float32(loss))
        assert any(np.any(leaf) for leaf in jax.tree.leaves(change)) == moves
        assert stopped_after(state) == (None if moves else 2)


def test_an_average_rests_with_what_it_is_of_once_an_early_stop_has_ended_the_learning(network):
    train = TrainOptions(warmup=0.0, stop_rise=0.1, average=0.9)
    transform = make_optimizer(train, 10)
    state, averages, model = jax.jit(transform.init)(network), [], network
    for loss in (1.0, 1.2, 0.5):  # ends at the second
        change, state = jax.jit(transform.update)(network, state, model, value=jnp.float32(loss))
        model = optax.apply_updates(model, change)
        averages.append(averaged(TrainState(jnp.int32(0), model, state)))
    for first, last in zip(*map(jax.tree.leaves, (averages[0], averages[-1])), strict=True):
        np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize(("size", "moves"), [(1.0, True), (1e15, True), (1e25, None)])
def test_a_gradient_whose_squares_overflow_is_nan_and_not_zero_when_clipped(size, moves):
    gradient = {"a": jnp.float32([3.0, 4.0]) * size}
    clipped, _ = clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    if moves:
        want, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
        np.testing.assert_array_equal(clipped["a"], want["a"])
    else:
        assert np.isnan(clipped["a"]).all()
