"""Our LSTM against PyTorch's: answers and gradients, recorded everywhere, live where torch is installed."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peer_answers import load

from moejax.models.recurrence import LSTM

NAMES = {"input": "weight_ih_l0", "recurrent": "weight_hh_l0", "input_bias": "bias_ih_l0"} | {
    "recurrent_bias": "bias_hh_l0"
}


@pytest.mark.parametrize("source", ["recorded", "live"])
def test_it_answers_and_learns_as_pytorchs(source):
    if source == "live":
        pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    case = load("lstm_pytorch") if source == "recorded" else importlib.import_module("live_peers").lstm_case()
    lstm = jax.eval_shape(lambda: LSTM(3, 4, rngs=nnx.Rngs(0)))
    for ours, theirs in NAMES.items():
        getattr(lstm, ours).set_value(jnp.asarray(case["weights"][theirs].T))

    @jax.jit
    def answer(lstm, x):
        with jax.default_matmul_precision("highest"):
            y, pull = jax.vjp(lambda lstm, x: lstm(x), lstm, x)
            return y, *pull(jnp.asarray(case["cotangent"]))

    y, by_layer, by_x = answer(lstm, jnp.asarray(case["x"]))
    np.testing.assert_allclose(y, case["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_x, case["x_gradient"], rtol=1e-4, atol=1e-6)
    for ours, theirs in NAMES.items():
        gradient = getattr(by_layer, ours)[...]
        np.testing.assert_allclose(gradient, case[f"d_{theirs}"].T, rtol=1e-4, atol=1e-6, err_msg=ours)
