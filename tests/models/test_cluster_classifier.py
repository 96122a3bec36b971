"""The model for synthetic clusters: against a loop over patches in float64, its rules, dispatches and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from moejax.config import configured, make_config
from moejax.models import build_model
from moejax.models.clusters import PatchFilters
from moejax.presets.clusters import mixture, papers_mixture, single

B = 6


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {"patches": jnp.asarray(rng.normal(size=(B, 4, 50)), jnp.float32), "label": jnp.zeros(B, jnp.int32)}


def filled(config, seed=0):
    return reference.randomly_filled(lambda: build_model(config, 2, nnx.Rngs(0)), seed, scale=0.2)


@jax.jit
def evaluate(model, batch):
    return model(batch, train=False)


def answer(kernel, bias, patches, cubic):
    """The definition: Σ over patches and filters, one by one."""
    logits = np.zeros(2)
    for x in np.asarray(patches, np.float64):
        for f in range(len(bias)):
            z = x @ np.asarray(kernel, np.float64)[:, f] + float(bias[f])
            logits[int(f >= len(bias) // 2)] += z**3 if cubic else z
    return logits


def test_filters_by_hand():
    expert = PatchFilters(2, 1, 2, cubic=True, rngs=nnx.Rngs(0))
    expert.filters.kernel[...], expert.filters.bias[...] = jnp.array([[1.0, -1.0]]), jnp.array([0.0, 1.0])
    # patches 2 and 3: 8 + 27, and (1 - 2)³ + (1 - 3)³
    np.testing.assert_allclose(expert(jnp.array([[2.0, 3.0]])), [[35.0, -9.0]])
    expert.cubic = False
    np.testing.assert_allclose(expert(jnp.array([[2.0, 3.0]])), [[5.0, -3.0]])


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_filters_begin_uniform_within_their_scale(scale):
    expert = PatchFilters(4, 50, 512, cubic=True, scale=scale, rngs=nnx.Rngs(0))
    values = (
        np.concatenate([np.ravel(expert.filters.kernel[...]), np.ravel(expert.filters.bias[...])]) * 50**0.5 / scale
    )
    assert np.abs(values).max() <= 1
    np.testing.assert_allclose([values.mean(), values.std()], [0, 3**-0.5], atol=0.02)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize("rule", [mixture, papers_mixture])
def test_a_mixture_equals_a_loop(kind, rule):
    config = make_config(**rule(kind))
    model, data = filled(config), batch()
    logits, (routing,) = evaluate(model, data)
    router = np.asarray(model.moe.router.kernel[...], np.float64)
    noise = (
        np.asarray(jax.random.uniform(jax.random.key(0), (B, 1, 8))) if config.moe.eval_noise else np.zeros((B, 1, 8))
    )
    filters = model.moe.experts.filters
    for i, patches in enumerate(np.asarray(data["patches"], np.float64)):
        h = sum(x @ router for x in patches)
        e = int((h + noise[i, 0]).argmax())
        assert routing.experts[i, 0, 0] == e
        gate = (h + noise[i, 0])[e] if config.moe.raw_weights else reference.softmax(h)[e]
        want = gate * answer(filters.kernel[...][e], filters.bias[...][e], patches, kind == "nonlinear")
        if config.model.double_softmax:
            want = reference.softmax(want)
        np.testing.assert_allclose(logits[i], want, rtol=2e-4, atol=1e-4)


def test_a_single_model_is_one_expert_whatever_its_router():
    config = make_config(**single("nonlinear", 6))
    model, data = filled(config), batch()
    logits, _ = evaluate(model, data)
    filters = model.moe.experts.filters
    for i in range(B):
        want = answer(filters.kernel[...][0], filters.bias[...][0], data["patches"][i], True)
        np.testing.assert_allclose(logits[i], want, rtol=2e-4, atol=1e-4)


def test_noise_is_fresh_in_training_and_one_at_evaluation():
    model, data = filled(make_config(**mixture("linear"))), batch()
    run = jax.jit(lambda seed: model(data, train=True, key=jax.random.key(seed))[1][0].logits)
    assert np.abs(run(0) - run(1)).max() > 0.1
    np.testing.assert_array_equal(evaluate(model, data)[1][0].logits, evaluate(model, data)[1][0].logits)
    quiet = filled(make_config(**papers_mixture("linear")))
    h = data["patches"].sum(1) @ quiet.moe.router.kernel[...]
    np.testing.assert_allclose(evaluate(quiet, data)[1][0].logits[:, 0], h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_dispatches_agree_on_logits_and_gradients(kind):
    data = batch()

    @jax.jit
    def both(model):
        def f(model):
            return (model(data, train=False)[0] ** 2).sum()

        return jax.value_and_grad(f)(model)

    grouped = make_config(**papers_mixture(kind))
    einsum = grouped.replace(moe=dict(dispatch="einsum", capacity_factor=None, eval_capacity_factor=None))
    got, want = (jax.tree.leaves(both(filled(config))) for config in (grouped, einsum))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-6)


def test_a_soft_layer_an_odd_number_of_filters_and_other_data_are_refused():
    sentences = {
        "moe.layer": ("soft", "moe.layer is soft, which cannot route by a sum of patches"),
        "moe.hidden": ("7", "moe.hidden is 7; half of"),
        "moe.shared": ("4", "moe.shared has no effect with moe.layer sparse"),
        "data.name": ("mnist", "model.name is clusters, which cannot read mnist"),
    }
    for name, (value, sentence) in sentences.items():
        _, problems = configured({name: value}, make_config(**mixture("linear")), words=True)
        assert any(problem.startswith(sentence) for problem in problems), (name, problems)
