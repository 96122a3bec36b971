"""A language model's run gives the same numbers on any devices, in parts and after a stop; every layer trains in it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from small_run import StopAfter
from test_parallel import devices

from moejax.config import Config, make_config
from moejax.data.dataset import Dataset
from moejax.data.text import windows
from moejax.errors import UserError
from moejax.interrupt import StopSignal
from moejax.models import build_model
from moejax.parameters import parameters
from moejax.presets import PRESETS
from moejax.routers import ROUTERS
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.loop import make_init, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer
from moejax.training.progress import Progress

VOCABULARY, LENGTH, BATCH, EPOCHS = 11, 8, 16, 2
SPARSE = dict(layer="sparse", num_experts=4, hidden=8, k=2, dispatch="grouped", balance_weight=0.1)
WAYS = {
    "8 × 1": dict(parallel=dict(data=8)),
    "2 × 4": dict(parallel=dict(data=2, expert=4)),
    "pmap": dict(parallel=dict(strategy="pmap", data=8)),
    "activations twice": dict(model=dict(remat=True)),
    "4 micro-batches": dict(train=dict(gradient_accumulation_steps=4)),
    "all at once": dict(
        parallel=dict(data=4, expert=2), model=dict(remat=True), train=dict(gradient_accumulation_steps=2)
    ),
}


@pytest.fixture(scope="module")
def text() -> Dataset:
    """Each token has two that may follow it."""
    rng = np.random.default_rng(0)
    follows = rng.integers(0, VOCABULARY, (VOCABULARY, 2))
    tokens = np.zeros(48 * LENGTH + 1, np.uint8)
    for t, second in enumerate(rng.integers(0, 2, len(tokens) - 1)):
        tokens[t + 1] = follows[tokens[t], second]
    examples, few = windows(tokens, LENGTH), windows(tokens[: 16 * LENGTH + 1], LENGTH)
    lengths = np.ones(VOCABULARY, np.int32)
    return Dataset("text", "dir", "made on the spot", {}, examples, few, few, VOCABULARY, token_bytes=lengths)


def configured(moe: dict = SPARSE, **changes: dict) -> Config:
    train = dict(epochs=EPOCHS, batch_size=BATCH, evaluation_batch=BATCH, chunk=3, learning_rate=3e-3)
    model = dict(name="decoder", width=16, depth=1, heads=2)
    sections = dict(data=dict(name="text", length=LENGTH), model=model, train=train, moe=moe)
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    return make_config(name="small", **sections)


def begun(path, config: Config, text: Dataset) -> Fit:
    folder = RunFolder(path) if path.exists() else RunFolder.create(path, config)
    with devices(1 if config.parallel == configured().parallel else 8):
        return Fit(config, text, folder, Progress())


def log(fit: Fit, kind: str = "train") -> list[dict]:
    return [record for record in fit.folder.read_log() if record["kind"] == kind]


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> Fit:
    """On one device, at once."""
    fit = begun(tmp_path_factory.mktemp("alone") / "run", configured(), text)
    assert fit.train(StopSignal())
    assert log(fit)[-1]["loss"] < log(fit)[0]["loss"]
    return fit


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_any_way_gives_the_run_of_one_device(alone, text, tmp_path, way):
    fit = begun(tmp_path / "run", configured(**WAYS[way]), text)
    assert fit.train(StopSignal())
    leaves = zip(jax.tree.leaves_with_path(alone.state.model), jax.tree.leaves(fit.state.model), strict=True)
    for (path, a), b in leaves:
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    for a, b in zip(log(alone), log(fit), strict=True):
        for name in ("loss", "auxiliary", "load"):
            np.testing.assert_allclose(b[name], a[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(log(alone, "validation"), log(fit, "validation"), strict=True):
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1e-2)


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits(alone, text, tmp_path):
    fit = begun(tmp_path / "run", configured(), text)
    fit.train(StopAfter(0))
    assert 0 < int(fit.state.step) < int(alone.state.step)
    fit = begun(tmp_path / "run", configured(), text)
    fit.resume()
    assert fit.train(StopSignal())
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(fit.state), jax.tree.leaves(alone.state))


LAYERS = {
    "soft": dict(layer="soft", num_experts=4, hidden=8, slots=2),
    "dense": dict(layer="dense", num_experts=4, hidden=8),
    "sigmoid with bias and shared": SPARSE | dict(router="sigmoid", bias_update_rate=1e-2, shared=8),
}
LAYERS |= {
    f"{router}, {dispatch}": SPARSE | dict(router=router, dispatch=dispatch, k=1 if router == "switch" else 2)
    for router, dispatch in itertools.product(ROUTERS, ("einsum", "gather", "grouped"))
}


REFUSED = {"expert_choice, grouped": "which sorts tokens by the expert they chose"}


@pytest.mark.slow
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer not in REFUSED])
def test_every_layer_trains(layer, text, tmp_path):
    fit = begun(tmp_path / "run", configured(LAYERS[layer]), text)
    assert fit.train(StopSignal())
    assert log(fit)[-1]["loss"] < log(fit)[0]["loss"]


@pytest.mark.parametrize("layer", REFUSED)
def test_what_cannot_be_is_one_sentence(layer):
    with pytest.raises(UserError, match=REFUSED[layer]) as raised:
        configured(LAYERS[layer])
    assert len(raised.value.sentences) == 1


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["soft", "softmax_top_k, grouped", "sigmoid, gather"])
def test_a_run_in_bfloat16_learns_parameters_of_float32(layer, text, tmp_path):
    fit = begun(tmp_path / "run", configured(LAYERS[layer], train=dict(dtype="bfloat16")), text)
    assert fit.train(StopSignal())
    assert log(fit)[-1]["loss"] < log(fit)[0]["loss"]
    learnt = {leaf.dtype for leaf in jax.tree.leaves(parameters(fit.state.model))}
    assert learnt == {jnp.dtype("float32")}
    assert np.isfinite(fit.test()["test_bits_per_byte"])


@pytest.mark.parametrize(
    "preset",
    [
        name if name == "text_sparse" else pytest.param(name, marks=pytest.mark.slow)
        for name in PRESETS
        if name.startswith("text_")
    ],
)
def test_a_preset_s_step_is_lowered_for_gpus_and_tpus(preset):
    config = PRESETS[preset].config
    optimizer = make_optimizer(config.train, 10)
    state = jax.eval_shape(make_init(lambda rngs: build_model(config, 256, rngs), optimizer), parameter_key(0))
    tokens = jax.ShapeDtypeStruct((config.train.batch_size, config.data.length), jnp.uint8)
    update = jax.jit(make_update(make_objective(config), optimizer, 10))
    batch = {"tokens": tokens, "label": tokens}
    exported = export.export(update, platforms=("cuda", "tpu"))(state, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert exported.platforms == ("cuda", "tpu")
