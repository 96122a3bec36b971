"""The LSTM: against a loop in float64, and its derivative by hand against JAX's own. PyTorch's is in tests/peers."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference import randomly_filled

from moejax.models.recurrence import LSTM, Bidirectional, recur


def layer(d, h, dtype=jnp.float32):
    return randomly_filled(lambda: LSTM(d, h, dtype=dtype, rngs=nnx.Rngs(0)), scale=0.5)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loop(x, w, u, bias):
    """h [b, t, h] of one example and one step at a time."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    b, t, _ = x.shape
    h_of = np.zeros((b, t, len(u)))
    for n in range(b):
        h, c = np.zeros(len(u)), np.zeros(len(u))
        for s in range(t):
            i, f, g, o = np.split(x[n, s] @ w + h @ u + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            h_of[n, s] = h
    return h_of


def numbers(lstm):
    parts = lstm.input, lstm.recurrent, lstm.input_bias, lstm.recurrent_bias
    w, u, b1, b2 = (np.asarray(p[...], np.float64) for p in parts)
    return w, u, b1 + b2


def test_one_step_by_hand():
    # z = x · W + bias = (0, ·, ln 3, 0): i = σ(0) = 1/2, g = tanh(ln 3) = 0.8, o = 1/2; f has nothing to keep.
    lstm = jax.eval_shape(lambda: LSTM(1, 1, rngs=nnx.Rngs(0)))
    lstm.input.set_value(jnp.array([[0.0, 5.0, np.log(3) / 2, 0.0]]))
    lstm.input_bias.set_value(jnp.array([1.0, 0, 0, -2]))
    lstm.recurrent_bias.set_value(jnp.array([-1.0, 0, 0, 2]))
    lstm.recurrent.set_value(jnp.ones((1, 4)))
    h = jax.jit(lambda lstm, x: lstm(x))(lstm, jnp.full((1, 1, 1), 2.0))
    np.testing.assert_allclose(h, np.full((1, 1, 1), np.tanh(0.4) / 2), rtol=1e-6)


def test_it_is_the_loop_over_examples_and_steps():
    lstm, x = layer(3, 4), draw(2, 6, 3)
    h = jax.jit(lambda lstm, x: lstm(x))(lstm, x)
    np.testing.assert_allclose(h, loop(np.asarray(x, np.float64), *numbers(lstm)), rtol=1e-5, atol=1e-6)


def test_the_derivative_by_hand_is_that_of_the_plain_loop():
    z, u, bias, dh = draw(5, 2, 12), draw(3, 12, seed=1), draw(12, seed=2), draw(5, 2, 3, seed=3)

    def plain(z, u, bias):
        h, c, out = jnp.zeros((2, 3)), jnp.zeros((2, 3)), []
        for t in range(5):
            i, f, g, o = jnp.split(z[t] + h @ u + bias[None], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            out.append(h)
        return jnp.stack(out)

    ours, theirs = (jax.jit(lambda *a, f=f: jax.vjp(f, *a)[1](dh))(z, u, bias) for f in (recur, plain))
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_a_later_row_changes_nothing_before_it():
    lstm, x = layer(3, 4), draw(2, 6, 3)
    run = jax.jit(lambda lstm, x: lstm(x))
    before, after = run(lstm, x), run(lstm, x.at[:, 4].add(1))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before[:, 4:] - after[:, 4:]).max((0, 2)) > 1e-3).all()


def test_both_directions_are_two_loops_of_half_the_width():
    both, x = randomly_filled(lambda: Bidirectional(3, 8, rngs=nnx.Rngs(0)), scale=0.5), draw(2, 6, 3)
    h = jax.jit(lambda both, x: both(x))(both, x)
    from_first, from_last = (
        loop(np.asarray(a, np.float64), *numbers(of)) for a, of in ((x, both.forth), (x[:, ::-1], both.back))
    )
    np.testing.assert_allclose(h, np.concatenate([from_first, from_last[:, ::-1]], axis=-1), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_near_float32_forward_and_backward():
    x, dh = draw(4, 7, 8), draw(4, 7, 16, seed=1)

    def answers(dtype):
        def value(lstm, x):
            h = lstm(x)
            assert h.dtype == dtype
            return (h.astype(jnp.float32) * dh).sum(), h

        lstm = layer(8, 16, dtype)
        (_, h), by_layer = jax.jit(jax.value_and_grad(value, has_aux=True))(lstm, x)
        return [h, *jax.tree.leaves(by_layer)]

    for half, full in zip(answers(jnp.dtype("bfloat16")), answers(jnp.dtype("float32")), strict=True):
        error = np.abs(np.asarray(half, np.float64) - np.asarray(full, np.float64)).max()
        assert 0 < error < 0.03 * np.abs(full).max()  # 8 bits, seven steps


def test_it_begins_as_pytorchs_does():
    lstm = jax.jit(lambda: LSTM(28, 256, rngs=nnx.Rngs(0)))()
    for leaf in jax.tree.leaves(lstm):
        # uniform within ± 1/√256, whose deviation is that / √3
        assert np.abs(leaf).max() <= 1 / 16
        np.testing.assert_allclose(leaf.std(), 1 / 16 / 3**0.5, rtol=0.1)
    scaled = jax.jit(lambda: LSTM(28, 256, input_scale=16.0, rngs=nnx.Rngs(0)))()
    np.testing.assert_array_equal(scaled.input[...], 16 * lstm.input[...])
    np.testing.assert_array_equal(scaled.recurrent[...], lstm.recurrent[...])
    keeping = jax.jit(lambda: LSTM(28, 256, forget_bias=1.0, rngs=nnx.Rngs(0)))()
    added = np.repeat([0, 1, 0, 0], 256)  # gates in order i, f, g, o
    np.testing.assert_allclose(keeping.input_bias[...], lstm.input_bias[...] + added, rtol=1e-6)
    np.testing.assert_array_equal(keeping.recurrent_bias[...], lstm.recurrent_bias[...])
