"""Steps whose loss or gradient is not finite: skipped as often as is allowed, on any devices, or named and the end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import StopAfter

from moejax import run
from moejax.config import to_json
from moejax.errors import UserError
from moejax.training import parallel
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.optimizer import learning_rate_schedule
from moejax.training.parallel import Parallel
from moejax.training.progress import Progress
from moejax.training.skipping import Skipping

NEVER = 10**9


def test_steps_are_counted_in_all_and_in_a_row():
    skipping = Skipping(2)
    assert skipping.see(np.array([True, False, True, False])) is None
    assert (skipping.total, skipping.in_a_row) == (2, 1)
    assert skipping.see(np.array([False, False, True])) == 1
    again = Skipping(2)
    records = [{"kind": "skipped", "step": 4, "count": 2, "in_a_row": 1}, {"kind": "train", "step": 4}]
    again.go_on(records, 4)
    assert (again.total, again.in_a_row) == (2, 1)
    again.go_on(records, 6)
    assert (again.total, again.in_a_row) == (2, 0)


@jax.custom_vjp
def spoilt(x, spoils):
    """x; its gradient is NaN where it is spoilt."""
    return x


spoilt.defvjp(lambda x, spoils: (x, spoils), lambda spoils, g: (jnp.where(spoils, jnp.nan, g), None))


@pytest.fixture
def poison(monkeypatch):
    """poison(images, in_gradient): a batch with one of these training images has no finite loss, or gradient."""

    def poison(images, *, in_gradient: bool = False):
        marks = jnp.asarray(images.reshape(len(images), -1).astype(np.int32).sum(1))
        plain = Parallel.objective

        def objective(parallel, config):
            inner = plain(parallel, config)

            def of_batch(model, batch, key):
                sums = batch["image"].reshape(len(batch["image"]), -1).astype(jnp.int32).sum(1)
                bad = jnp.isin(sums, marks).any()
                loss, metrics = inner(model, batch, key)
                return (spoilt(loss, bad) if in_gradient else jnp.where(bad, jnp.inf, loss)), metrics

            return of_batch

        monkeypatch.setattr(Parallel, "objective", objective)

    return poison


def begin(path, config, dataset, **values) -> Fit:
    config = config.replace(**values)
    return Fit(config, dataset, RunFolder.create(path, config), Progress())


def bad_steps(fit: Fit, images) -> list[int]:
    """The steps, from 1, whose batch has one of these images."""
    found = []
    for step in range(fit.steps):
        batch = fit.feed(fit.examples(step, step + 1), fit.keys.order, jnp.int32(step))(jnp.int32(step))
        found += [step + 1] * any((np.asarray(batch["image"]) == image).all((1, 2)).any() for image in images)
    return found


@pytest.mark.parametrize("in_gradient", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(config, dataset, tmp_path, poison, in_gradient):
    poison(dataset.train["image"][:1], in_gradient=in_gradient)
    train = {"skip_nonfinite": 1, "chunk": 1, "average": 0.5}
    fit = begin(tmp_path / "run", config, dataset, train=train)
    steps, states = bad_steps(fit, dataset.train["image"][:1]), []
    assert len(steps) == 2  # once an epoch
    take = fit.take

    def remembered(chunk, n):
        states.append(jax.device_get(jax.tree.leaves(fit.state)))
        return take(chunk, n)

    fit.take = remembered
    assert fit.train(StopAfter(NEVER))
    states.append(jax.device_get(jax.tree.leaves(fit.state)))
    for step in range(1, fit.steps + 1):
        (_, *before), (_, *after) = states[step - 1 : step + 1]  # the number of steps comes first
        assert all((a == b).all() for a, b in zip(before, after, strict=True)) == (step in steps)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["count"]) for line in lines if line["kind"] == "skipped"] == [(s, 1) for s in steps]
    assert fit.test()["skipped_steps"] == 2


@pytest.mark.parametrize(
    ("devices", "values"),
    [
        pytest.param(2, {"parallel": {"expert": 2}, "train": {"batch_size": 16}}, marks=pytest.mark.slow),
        pytest.param(
            *(3, {"parallel": {"strategy": "pmap"}, "moe": {"dispatch": "grouped"}, "train": {}}),
            marks=pytest.mark.slow,
        ),
        pytest.param(*(1, {"train": {"gradient_accumulation_steps": 3}}), marks=pytest.mark.slow),
    ],
    ids=["mesh", "pmap", "accumulated"],
)
def test_one_too_many_in_a_row_ends_the_run_and_is_named_on_any_devices(
    config, dataset, tmp_path, poison, monkeypatch, devices, values
):
    monkeypatch.setattr(parallel, "available_devices", lambda: jax.devices()[:devices])
    poison(dataset.train["image"][:90:2], in_gradient=True)  # in every batch
    train = {"skip_nonfinite": 3, "chunk": 2} | values["train"]
    fit = begin(tmp_path / "run", config, dataset, **values | {"train": train})
    with pytest.raises(UserError) as raised:
        fit.train(StopAfter(NEVER))
    first, second = raised.value.sentences
    assert "At step 4 the loss or its gradient is not a finite number: 4 steps in a row, of which train.skip" in first
    assert second.startswith("Step 1 was the first where something was not finite: the gradient of ")
    assert "of 14 parameters" in second or "parameters, at a loss of" in second


@pytest.mark.slow
def test_a_run_names_its_first_gradient_that_is_not_finite_and_goes_on_by_skipping(
    config, dataset, tmp_path, poison, monkeypatch, capsys
):
    poison(dataset.train["image"][:1], in_gradient=True)
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    config = config.replace(train={"epochs": 3})
    (tmp_path / "small.json").write_text(to_json(config), encoding="utf-8")
    path = tmp_path / "run"
    steps = bad_steps(begin(tmp_path / "other", config, dataset), dataset.train["image"][:1])
    assert run.main(["--config", str(tmp_path / "small.json"), "--out", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"Step {steps[0]} was the first where something was not finite: the gradient of " in said
    assert steps[0] == 1 or f"Step {steps[0] - 1} had a loss of " in said
    again = run.main(["--resume", str(path), "--train.skip_nonfinite", "2"])
    assert again == 0, capsys.readouterr().err
    assert json.loads((path / "summary.json").read_text())["skipped_steps"] == 3
    assert json.loads((path / "config.json").read_text())["train"]["skip_nonfinite"] == 2


@pytest.mark.slow
def test_an_operation_that_makes_a_nan_is_named_with_its_line(config, dataset, tmp_path):
    fit = begin(tmp_path / "run", config, dataset, train={"weight_decay": 1e30, "warmup": 0.0})
    fit.debug_nans = True
    with pytest.raises(UserError) as raised:
        fit.train(StopAfter(NEVER))
    assert "step 2 on; lower train.weight_decay (1e+30)" in raised.value.sentences[0]
    assert "--debug.nans: invalid value (nan) encountered in " in raised.value.sentences[2]
    assert "moejax/" in raised.value.sentences[2]


def test_a_run_all_of_whose_steps_were_skipped_has_no_result(config, dataset, tmp_path, poison):
    poison(dataset.train["image"])
    fit = begin(tmp_path / "run", config, dataset, train={"skip_nonfinite": 100})
    assert fit.train(StopAfter(NEVER))
    with pytest.raises(UserError, match=r"^Nothing was learnt: all 12 steps had a loss or a gradient that is not"):
        fit.test()
    assert fit.folder.read_summary() is None


def test_gone_on_for_more_epochs_it_names_the_rate_of_the_steps_that_learnt(config, dataset, tmp_path, poison):
    poison(dataset.train["image"][:1])
    fit = begin(tmp_path / "run", config, dataset, train={"skip_nonfinite": 1})
    assert fit.train(StopAfter(NEVER))
    assert fit.skipping.total == 2  # once an epoch, of six steps
    longer = fit.config.replace(train={"epochs": 4})
    again = Fit(longer, dataset, RunFolder(fit.folder.path), Progress())
    said = []
    again.progress.message = said.append
    again.resume()
    now, before = (learning_rate_schedule(longer.train, steps)(10) for steps in (24, 12))
    assert said[-1].endswith(f"; the rate is {now:.2g} and would have been {before:.2g}.")
