"""Optimisers of optax by their names: each works or says why not; decay, clipping and freezing are the run's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_run import StopAfter
from test_fit import NEVER, bits, lines, start
from test_optimizer import Network, arrays
from test_parallel import devices

from moejax.config import make_config, optax_by_name
from moejax.config.training import TrainOptions
from moejax.errors import UserError
from moejax.models import build_model
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.loop import make_init, parameter_key
from moejax.training.optimizer import make_optimizer
from moejax.training.parallel import Parallel
from moejax.training.progress import Progress

USELESS = {
    "optax.lbfgs": "does not work in a run's loop",
    "optax.noisy_sgd": "keeps a random key",
    "optax.optimistic_adam": "takes no learning rate that changes",
    "optax.rprop": "takes no learning rate that changes",
    "optax.sm3": "takes no learning rate that changes",
    "optax.contrib.dpsgd": "does not work in a run's loop",
    "optax.contrib.sophia": "does not work in a run's loop",
}
PLAIN = dict(schedule="constant", warmup=0.0, learning_rate=0.1)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), jax.eval_shape(Network))


def test_each_works_on_a_network_or_says_why_not(network):
    assert set(USELESS) < set(optax_by_name.functions())
    for name in optax_by_name.functions():
        if name in USELESS:
            with pytest.raises(UserError, match=f"^train.optimizer is {name}, which .*{USELESS[name]}"):
                make_config(train={"optimizer": name})
            continue
        config = make_config(train={"optimizer": name, "frozen": "first.router", "average": 0.9})
        optimizer = make_optimizer(config.train, 10)
        step = lambda net, o=optimizer: o.update(net, o.init(net), net, value=jnp.float32(1))[0]  # noqa: E731
        change = jax.eval_shape(step, network)
        shapes = ([a.shape for a in jax.tree.leaves(tree)] for tree in (change, network))
        assert next(shapes) == next(shapes), name


def after(optimizer, network, steps=3):
    @jax.jit
    def step(network, state):
        change, state = optimizer.update(network, state, network, value=jnp.float32(1))
        return optax.apply_updates(network, change), state

    state = jax.jit(optimizer.init)(network)
    for _ in range(steps):
        network, state = step(network, state)
    return arrays(network)


def test_its_adamw_is_this_one(network):
    ours, theirs = (
        after(make_optimizer(TrainOptions(optimizer=name, clip_norm=0.3, weight_decay=0.2, **PLAIN), 10), network)
        for name in ("adamw", "optax.adamw")
    )
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], array, atol=1e-6, err_msg=name)


def test_lion_by_its_formula_with_the_runs_decay(network):
    train = TrainOptions(
        optimizer="optax.lion", optimizer_arguments="b1=0.5, b2=0.75", clip_norm=None, weight_decay=0.2, **PLAIN
    )
    first = arrays(network)
    for name, array in after(make_optimizer(train, 10), network, steps=2).items():
        w, m = first[name], 0.0
        for _ in range(2):
            direction = np.sign(0.5 * m + 0.5 * w)  # the gradient is the parameter itself
            m = 0.75 * m + 0.25 * w
            decay = 0.2 * w * (w.ndim - (".experts." in name) > 1 and ".bias" not in name)
            w = w - 0.1 * (direction + decay)
        np.testing.assert_allclose(array, w, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (dict(optimizer="optax.lino"), "optimizer is optax.lino, which is no optimiser .* nearest name is optax.lion"),
        (dict(optimizer="lion"), "optimizer is 'lion'; it must be one of adamw, .* the nearest name is optax.lion"),
        (dict(optimizer="AdamW"), "the nearest name is adamw"),
        (dict(optimizer="optax.constant_schedule"), "which is no optimiser of optax"),
        (
            dict(optimizer_arguments="b1=0.9"),
            "but train.optimizer is adamw; it has an effect only where .* is one of optax",
        ),
        (dict(optimizer="optax.lion", optimizer_arguments="b3=1"), "has b3, but optax.lion has b1, b2, mu_dtype"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1=big"), "b1=big; for optax.lion it must be a number"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1=1,b1=2"), "write each argument once"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1"), "write each argument once, as b1=0.95"),
        (
            dict(optimizer="optax.lion", optimizer_arguments="mu_dtype=flat"),
            "mu_dtype=flat; for optax.lion it must be a floating-p",
        ),
        (dict(optimizer="optax.lion", optimizer_arguments="weight_decay=1"), "which train.weight_decay gives"),
        (dict(optimizer="optax.lion", optimizer_arguments="mask=none"), "decided for all optimisers alike"),
        (dict(optimizer="optax.sgd", optimizer_arguments="nesterov=2"), "it must be true or false"),
        (
            dict(optimizer="optax.sgd", optimizer_arguments="momentum=nan"),
            "momentum=nan; for optax.sgd it must be a number",
        ),
        (dict(optimizer="optax.sgd", optimizer_arguments="momentum=1e999"), "momentum=inf; .* it must be a number"),
        (dict(optimizer="optax.sgd", optimizer_arguments="momentum=true"), "momentum=true; .* it must be a number"),
        (dict(optimizer="optax.sgd", optimizer_arguments="accumulator_dtype=int8"), "must be a floating-point type"),
        (dict(optimizer="optax.lion", optimizer_arguments="mu_dtype=float8_e4m3fn"), "type of at least 16 bits"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1=١"), "b1='١'; for optax.lion it must be a number"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1=1_0"), "b1='1_0'; for optax.lion it must be a number"),
        (dict(optimizer="optax.lion", optimizer_arguments="b1=none"), "b1=none; for optax.lion it must be a number"),
        (dict(optimizer="optax.adafactor", optimizer_arguments="min_dim_size_to_factor=1.5"), "be a whole number"),
        (dict(optimizer="optax.adafactor", optimizer_arguments="min_dim_size_to_factor=" + "9" * 400), "be a whole"),
        (
            dict(optimizer="optax.sgd", weight_decay=0.1),
            "weight_decay is 0.1, but train.optimizer is 'optax.sgd'; it has an effect only wh",
        ),
        (
            dict(optimizer="normalized", weight_decay=0.1),
            "weight_decay is 0.1, but train.optimizer is normalized; it has an effect only wh",
        ),
        (
            dict(optimizer="adam", clip_norm=0.1),
            "clip_norm is 0.1, but train.optimizer is adam; it has an effect only where",
        ),
    ],
    ids=str,
)
def test_what_is_none_is_one_sentence(train, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        make_config(train=train)
    assert len(raised.value.sentences) == 1


def test_values_are_those_of_the_words():
    assert optax_by_name.arguments("a=1, b=1e-3,c=true,d=none,e=bfloat16") == {
        **dict(a=1, b=1e-3, c=True, d=None, e="bfloat16")
    }
    assert optax_by_name.arguments("a=-1,b=+.5,c=2.,d=1E-3,e=1_0,f=nan,g=1e") == {
        **dict(a=-1, b=0.5, c=2.0, d=1e-3, e="1_0", f="nan", g="1e")
    }
    assert optax_by_name.arguments("") == {}


def test_none_is_taken_where_the_optimiser_takes_it():
    given = "momentum=none,clipping_threshold=none,weight_decay_rate=0.1,dtype_momentum=bfloat16"
    assert make_config(train={"optimizer": "optax.adafactor", "weight_decay": 0.0, "optimizer_arguments": given})


@pytest.mark.slow
def test_a_run_with_one_stops_and_goes_on_to_the_same_bits(config, dataset, tmp_path):
    train = dict(optimizer="optax.lion", optimizer_arguments="b2=0.95", learning_rate=1e-3, average=0.5)
    config = config.replace(train=train)
    whole = start(tmp_path / "whole", config, dataset)
    whole.train(StopAfter(NEVER))
    start(tmp_path / "stopped", config, dataset).train(StopAfter(0))
    folder, again = RunFolder.open(tmp_path / "stopped")
    assert again == config
    resumed = Fit(again, dataset, folder, Progress())
    resumed.resume()
    resumed.train(StopAfter(NEVER))
    assert bits(resumed) == bits(whole)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_on_several_devices_what_it_keeps_of_an_expert_may_have_another_shape(config):
    config = config.replace(train=dict(batch_size=16, optimizer="optax.adafactor"), parallel=dict(data=4, expert=2))
    build = partial(build_model, config, 4)
    init = make_init(lambda rngs: build(rngs), make_optimizer(config.train, 10))
    with devices(8):
        parallel, key = Parallel.of(config, None), parameter_key(0)
        shapes = parallel.shapes(jax.eval_shape(init, key))
        parallel.over_devices(init, shapes).lower(key)  # an error where a sharding does not fit
    kernel = shapes.model.blocks[0].moe.experts.up.kernel.get_value()
    assert kernel.sharding.spec[0] == "expert"
