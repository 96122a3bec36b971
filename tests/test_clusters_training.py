"""The study's training of many seeds: seed by seed the main job's own steps."""

import jax
import numpy as np
import pytest

from experiments.understanding_moe import training as clusters_training
from experiments.understanding_moe.run import configuration
from moejax.config import make_config
from moejax.data import clusters
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.presets.clusters import mixture, single
from moejax.training.early_stop import early_stop_of
from moejax.training.loop import make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

N, STEPS = 48, 4


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize(("preset", "rule"), [("moe", "ours"), ("authors", "authors"), ("paper", "paper")])
def test_each_rule_of_the_study_is_a_preset_of_its_name(preset, rule, kind):
    asked = configuration(f"moe_{kind}", rule, "s1")
    assert PRESETS[f"clusters_{preset}_{kind}"].config == asked


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["s1", "s2", "s3", "s4"])
def test_the_preset_that_a_user_types_is_as_good_as_the_noise_allows(setting):
    config = PRESETS["clusters_moe_nonlinear"].config
    config = config.replace(data=dict(setting=setting))
    assert clusters_training.train(config, [77]).accuracy > (0.9985 if setting in ("s1", "s3") else 0.994)


MIXTURE = make_config(**mixture("nonlinear")), {"learning_rate": 0.05, "stop_rise": None, "stop_below": 0.69}
SINGLE = make_config(**single("nonlinear", filters=8)), {}  # in blocks


@pytest.mark.parametrize("mapped", [pytest.param("in turn", marks=pytest.mark.slow), "at once"])
@pytest.mark.parametrize(
    ("config", "changes"),
    [MIXTURE, pytest.param(*SINGLE, marks=pytest.mark.slow)],
    ids=["mixture", "single"],
)
def test_seeds_together_take_the_steps_of_each_alone(monkeypatch, config, changes, mapped):
    monkeypatch.setattr(clusters, "TRAIN", N)
    monkeypatch.setattr(clusters, "TEST", 32)
    monkeypatch.setattr(clusters_training, "BLOCK", N // 3)
    if mapped == "at once":  # as where there is an accelerator
        monkeypatch.setattr(clusters_training, "over_seeds", jax.vmap)
    train = dict(epochs=STEPS, **changes)
    config = config.replace(train=train)
    looked_at = []
    got = clusters_training.train(config, [3, 4], n=N, chunk=2, look=lambda step, state: looked_at.append(step))
    assert looked_at == [0, 2, 4][: len(looked_at)]

    optimizer = make_optimizer(config.train, STEPS)
    init = make_init(lambda rngs: build_model(config, 2, rngs), optimizer)
    update = jax.jit(make_update(make_objective(config), optimizer))
    evaluate = jax.jit(lambda model, data: model(data, train=False)[0].argmax(-1))
    for i, seed in enumerate((3, 4)):
        data = clusters.load("s1", 0, seed)
        state, losses = init(parameter_key(seed)), []
        for step in range(STEPS):
            key = jax.random.fold_in(make_keys(seed).augment, step)
            state, told = update(state, data.train, key)
            losses.append(float(told.loss))
        taken = got.loss.shape[1]  # fewer if both seeds had stopped before
        np.testing.assert_allclose(got.loss[i], losses[:taken], rtol=1e-4)
        assert got.steps[i] == (early_stop_of(state.optimizer).steps if config.train.stop_below else STEPS)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], got.state.model)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(state.model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
        want = np.mean(np.asarray(evaluate(state.model, data.test)) == data.test["label"])
        np.testing.assert_allclose(got.accuracy[i], want, atol=1e-6)
    assert (got.entropy >= 0).all()
