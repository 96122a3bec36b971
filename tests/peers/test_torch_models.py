"""The PyTorch models that training is timed against answer and learn as ours do: the comparison is of the same work."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.training.objective import make_objective

CASES = [("mnist_dense", "loop"), ("mnist_sparse", "loop"), ("mnist_sparse", "einsum"), ("mnist_soft", "loop")]


@pytest.fixture
def torch_models():
    pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    return importlib.import_module("benchmarks.peers.models")


def batch(config, count=16):
    """Images whose tokens fill whole groups."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return {"image": image, "label": rng.integers(0, 10, count).astype(np.int32)}


def both(torch_models, preset, dispatch):
    """Our model and theirs with the same parameters, all random; the configuration without augmentation."""
    config = PRESETS[preset].config
    config = config.replace(train=dict(shift=0.0))
    ours = jax.jit(lambda: build_model(config, 10, nnx.Rngs(0)))()
    leaves, tree = jax.tree.flatten(ours)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    ours = tree.unflatten([a + 0.05 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])
    theirs = torch_models.ImageClassifier(config, dispatch=dispatch)
    torch_models.copy_parameters(ours, theirs)
    return config, ours, theirs


@pytest.mark.parametrize(("preset", "dispatch"), CASES)
def test_equal_logits_and_parameters(torch_models, preset, dispatch):
    config, ours, theirs = both(torch_models, preset, dispatch)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in jax.tree.leaves(ours))
    data = batch(config)
    for train in (True, False):
        expected, _ = jax.jit(lambda m, b, train=train: m(b, train=train))(ours, data)
        logits, _ = theirs.train(train)(torch_models.torch.tensor(data["image"]))
        np.testing.assert_allclose(logits.detach().numpy(), expected, atol=2e-4)


@pytest.mark.parametrize(("preset", "dispatch"), CASES)
def test_equal_loss_and_gradient(torch_models, preset, dispatch):
    config, ours, theirs = both(torch_models, preset, dispatch)
    data, torch = batch(config), torch_models.torch
    step = jax.jit(jax.value_and_grad(make_objective(config), has_aux=True))
    (loss, _), gradient = step(ours, {k: jnp.asarray(v) for k, v in data.items()}, jax.random.key(0))
    logits, auxiliary = theirs(torch.tensor(data["image"]))
    answer = torch.nn.functional.cross_entropy(logits, torch.tensor(data["label"]).long()) + auxiliary
    answer.backward()
    assert answer.item() == pytest.approx(float(loss), rel=1e-5)
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1e9)
    assert norm.item() == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
