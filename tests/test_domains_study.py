"""The study of domains: its training takes the main job's own steps, and its rows are of equal size."""

import numpy as np
import pytest

from experiments.domains import run as study
from experiments.domains import training
from moejax.commandline import configure, parse
from moejax.data.dataset import Dataset
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress


def key(model, **changes):
    usual = {"of": "mnist", "change": "rotations", "domains": 4, "share": 1, "model": model, "seed": 0}
    return usual | changes


def configuration(model, **changes):
    return configure(parse(study.words(key(model, **changes))))


@pytest.mark.parametrize("of", study.SETS_SHOWN)
@pytest.mark.parametrize(
    ("change", "model"), [(change, model) for change in study.CHANGES for model in study.MODELS[change]]
)
def test_every_row_can_be_typed_and_costs_as_much(change, model, of):
    config = configuration(model, of=of, change=change, domains=study.CHANGES[change])
    assert (config.data.of, config.data.change, config.data.domains) == (of, change, study.CHANGES[change])
    width = study.WIDTHS[change]
    at_work = {"dense": width + 4, "wide": 16 * width + 4, "soft": 16 * width}.get(model, width)
    active = getattr(config.moe, "k", config.moe.num_experts)
    assert active * config.moe.hidden == at_work
    if model == study.BEST[change]:
        router = config.moe.num_experts * (28 // config.model.pool) ** 2
        assert router == study.ROUTER * 28**2


@pytest.mark.slow
def test_it_trains_as_the_main_job_does(dataset, tmp_path, monkeypatch):
    config = configuration("oracle").replace(data={"validation": 30}, train={"batch_size": 15, "chunk": 4, "epochs": 2})
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    splits = {name: split | {"domain": split["label"]} for name, split in splits.items()}
    data = Dataset("bars", "dir", "made on the spot", {}, **splits, num_classes=4)
    fit = Fit(config, data, RunFolder.create(tmp_path / "run", config), Progress())
    while int(fit.state.step) < fit.steps:
        step = int(fit.state.step)
        n = min(config.train.chunk, fit.steps_per_epoch - step % fit.steps_per_epoch)
        fit.state, _ = fit.chunk(fit.state, fit.examples(step, step + n), fit.keys, step + n)
    monkeypatch.setattr(training, "_data", lambda options, seed: data)
    result = training.train(config)
    expected = fit.state.model.moe.experts.linear[0].kernel[...]
    np.testing.assert_allclose(result.model.moe.experts.linear[0].kernel[...], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.domain_expert, np.diag(np.bincount(data.test["domain"])))
    assert result.flops == 2 * 16 * (784 + 4)
    assert result.parameters == 4 * 16 * (784 + 4) + 4 * (16 + 4)
