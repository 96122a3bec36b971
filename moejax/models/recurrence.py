"""A recurrent layer (LSTM, Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    z[t] = x[t] · W + h[t-1] · U + bias          all of x · W at once, before the loop
    i, f, g, o = σ(z₁), σ(z₂), tanh(z₃), σ(z₄)
    c[t] = f · c[t-1] + i · g                    h[t] = o · tanh(c[t])

Axis letters: b examples, t steps, d input width, h hidden width; z holds the four gates side by side, [.., 4h].
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from moejax.kernels.bfloat16 import as_bits, from_bits, matmul, matmul_transposed, outer


class LSTM(nnx.Module):
    """An LSTM as PyTorch has it: gates in order i, f, g, o, two biases that are summed, and its initial values.

    `input_scale` multiplies the initial weights of the input. `forget_bias` is added to the initial bias of the forget
    gate, so that cells begin by keeping their state (Gers et al. 2000).
    """

    def __init__(
        self,
        d: int,
        h: int,
        *,
        input_scale: float = 1.0,
        forget_bias: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        def uniform(*shape: int, scale: float = 1.0) -> nnx.Param:
            limit = scale * h**-0.5
            return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-limit, maxval=limit))

        self.input, self.recurrent = uniform(d, 4 * h, scale=input_scale), uniform(h, 4 * h)
        self.input_bias, self.recurrent_bias = uniform(4 * h), uniform(4 * h)
        self.input_bias[...] = self.input_bias[...].at[h : 2 * h].add(forget_bias)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h"]:
        """h at every step, starting from h = c = 0."""
        x, w, u = (a.astype(self.dtype) for a in (x.swapaxes(0, 1), self.input[...], self.recurrent[...]))
        return recur(matmul(x, w), u, self.input_bias[...] + self.recurrent_bias[...]).swapaxes(0, 1)


class Bidirectional(nnx.Module):
    """Two LSTMs of half the width: one reads from the first step on, one from the last back (Schuster & Paliwal 1997).

    `h` must be even; all else goes to both (see `LSTM`).
    """

    def __init__(self, d: int, h: int, *, rngs: nnx.Rngs, **settings: Any):
        self.forth, self.back = (LSTM(d, h // 2, **settings, rngs=rngs) for _ in range(2))

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h"]:
        """At every step what was read up to it from either side."""
        return jnp.concatenate([self.forth(x), self.back(x[:, ::-1])[:, ::-1]], axis=-1)


@jax.custom_vjp
def recur(z: Float[Array, "t b z"], u: Float[Array, "h z"], bias: Float[Array, " z"]) -> Float[Array, "t b h"]:
    """h[t] at every step, in the dtype of `u`; `z` is x · W, the input's part of the gates.

    With a backward pass of its own: the loop computes only the product that the next step needs; the gradient of `u` is
    one product after the loop. So it has no forward mode (`jax.jvp`).
    """
    return _forward(z, u, bias)[0]


def _forward(z, u, bias):
    def step(carry, z):
        h, c = carry
        gates = i, f, g, o = _gates(z + matmul(from_bits(h, u.dtype), u) + bias[None])
        after = f * c + i * g
        new = as_bits((o * jnp.tanh(after)).astype(u.dtype))
        return (new, after), (new, h, c, as_bits(jnp.concatenate(gates, axis=-1).astype(u.dtype)))

    start = jnp.zeros((z.shape[1], len(u)))
    _, (h, *residual) = lax.scan(step, (as_bits(start.astype(u.dtype)), start), z)
    return from_bits(h, u.dtype), (u, *residual)


def _backward(residual, dh_of_step):
    u, h_before, c_before, gates = residual  # the state before each step, and its gates

    def step(carry, inputs):
        dh, dc = carry
        from_above, c, gates = inputs
        i, f, g, o = jnp.split(from_bits(gates, u.dtype).astype(jnp.float32), 4, axis=-1)
        squashed = jnp.tanh(f * c + i * g)
        dh = dh + from_bits(from_above, u.dtype)
        dc = dc + dh * o * (1 - squashed**2)
        dz = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)]
        dz = jnp.concatenate(dz, axis=-1).astype(u.dtype)
        return (matmul_transposed(dz, u), dc * f), as_bits(dz)

    start = jnp.zeros_like(c_before[0])
    _, dz = lax.scan(step, (start, start), (as_bits(dh_of_step), c_before, gates), reverse=True)
    dz = from_bits(dz, u.dtype)
    du = outer(from_bits(h_before, u.dtype), dz).astype(u.dtype)
    return dz.astype(jnp.float32), du, dz.sum((0, 1), dtype=jnp.float32)


def _gates(z: Float[Array, "b z"]) -> tuple[Float[Array, "b h"], ...]:
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


recur.defvjp(_forward, _backward)
