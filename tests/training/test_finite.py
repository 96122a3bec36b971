"""What is no number ends a run in a sentence about what made it, and is never a checkpoint or a result."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_run import StopAfter

from moejax.config import make_config
from moejax.errors import UserError
from moejax.presets import PRESETS
from moejax.training.diagnosis import Watched, search
from moejax.training.finite import not_finite
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.objective import StepMetrics
from moejax.training.progress import Progress

NEVER = 10**9


def start(path, config, dataset, **values) -> Fit:
    config = config.replace(**values)
    return Fit(config, dataset, RunFolder.create(path, config), Progress())


def assert_nothing_was_kept(fit: Fit) -> None:
    assert not list(fit.folder.checkpoints.glob("[0-9]*"))
    assert fit.folder.read_summary() is None
    for line in (fit.folder.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_step_that_leaves_no_finite_parameters_is_noticed_at_the_evaluation_after_it(config, dataset, tmp_path):
    train = {"epochs": 1, "batch_size": 90, "learning_rate": 1e38, "clip_norm": None, "warmup": 0.0}
    fit = start(tmp_path / "run", config, dataset, train=train)
    with pytest.raises(UserError, match=r"After step 1 .* not .*finite.*; lower train\.learning_rate \(1e\+38\)"):
        fit.train(StopAfter(NEVER))
    assert_nothing_was_kept(fit)


def test_a_state_that_is_not_finite_is_no_checkpoint_though_its_loss_is(config, dataset, tmp_path):
    fit = start(tmp_path / "run", config, dataset)
    broken = jax.tree.map(lambda a: a * jnp.inf if a.dtype == jnp.float32 else a, fit.state.optimizer)
    fit.state = fit.state._replace(optimizer=broken)
    with pytest.raises(UserError, match="not all numbers of the optimiser's state are finite"):
        fit._save(0.9)
    assert_nothing_was_kept(fit)


def test_a_test_that_is_not_finite_is_no_result(config, dataset, tmp_path):
    fit = start(tmp_path / "run", config, dataset)
    fit.state = jax.tree.map(lambda a: a + jnp.inf if a.dtype == jnp.float32 else a, fit.state)
    with pytest.raises(UserError, match="an evaluation's loss is not a finite number"):
        fit.test()
    assert_nothing_was_kept(fit)


def test_an_option_that_is_at_its_default_is_not_the_cause():
    config = PRESETS["text_sparse"].config
    assert config.model.theta > 360
    found = dict(config=config, learnt=True, kept="x")
    assert "; lower train.learning_rate (" in not_finite("The loss is not finite", **found).sentences[0]
    found["config"] = config.replace(model={"theta": 20_000.0})
    assert "; lower model.theta (20000)" in not_finite("The loss is not finite", **found).sentences[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": {"weight_decay": 1e30, "warmup": 0.0}}, "from step 2 on; lower train.weight_decay (1e+30)"),
        pytest.param(
            {"moe": {"layer": "dense", "temperature": 1e-38}},
            "from step 1 on; nothing had been learnt yet, so look at the data and the options of moe.*",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_learning_rate_is_not_blamed_for_what_another_option_did(config, dataset, tmp_path, values, sentence):
    fit = start(tmp_path / "run", config, dataset, **values)
    with pytest.raises(UserError) as raised:
        fit.train(StopAfter(NEVER))
    assert f"not a finite number {sentence}" in str(raised.value)
    assert "train.learning_rate" not in str(raised.value)
    assert_nothing_was_kept(fit)


@pytest.mark.parametrize(
    ("config", "learnt", "cause"),
    [
        (make_config(), True, "; lower train.learning_rate (0.002). "),
        (make_config(), False, "; nothing had been learnt yet, so look at the data and the options of moe.*. "),
        (make_config(moe=dict(scale=1e30)), True, "; lower moe.scale (1e+30). "),
        (
            make_config(train=dict(learning_rate=1e9, weight_decay=1e30)),
            True,
            "; lower train.learning_rate (1e+09) and train.weight_decay (1e+30). ",
        ),
        (make_config(train=dict(learning_rate=1e9, weight_decay=1e30)), False, "; lower train.weight_decay (1e+30). "),
    ],
)
def test_the_sentence_names_the_likely_cause(config, learnt, cause):
    from moejax.training.finite import not_finite

    assert cause in str(not_finite("It is not finite", config=config, learnt=learnt, kept="runs/x"))


def test_a_gradient_whose_norm_alone_overflows_is_not_the_first_that_is_not_finite():
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    one = np.ones(2, np.float32)
    watched = Watched(np.ones((2, 2), bool), np.array([[True, True], [True, False]]), np.array([np.inf, np.inf]))
    metrics = StepMetrics(one, one, one, *(np.ones((2, 1, 1)),) * 4, watched=watched)
    found = search([(0, metrics)], model)
    assert found.step == 2
    assert found.what.startswith("the new value of kernel.value, after a gradient of norm inf")
