"""Attention to the tokens before as pure functions, with rotary positions and a window; and its derivative.

The value is `jax.nn.dot_product_attention`'s. What JAX derives of it goes many times over arrays [b, a, t, s], which is
most of a CPU's time in a small model; the derivative here makes the weights again and goes over them four times.

Axis letters: b texts, t queries, s keys, a heads, c numbers of a head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attend(
    queries: Float[Array, "b t a c"],
    keys: Float[Array, "b s a2 c"],
    values: Float[Array, "b s a2 c"],
    seen: Bool[Array, "t s"],
) -> Float[Array, "b t a c"]:
    """Softmax attention of each query to the keys that it sees; a head of keys may serve several of queries.

    On a CPU it has a derivative of its own, in reverse mode alone: no `jax.jvp`.
    """
    if jax.default_backend() != "cpu":
        return _attention(queries, keys, values, seen)
    shared = queries.shape[2] // keys.shape[2]
    return _on_cpu(queries, *(x if shared == 1 else jnp.repeat(x, shared, axis=2) for x in (keys, values)), seen)


def _attention(queries: Array, keys: Array, values: Array, seen: Array) -> Array:
    return jax.nn.dot_product_attention(queries, keys, values, mask=seen[None, None])


_on_cpu = jax.custom_vjp(_attention)


def _forward(queries: Array, keys: Array, values: Array, seen: Array) -> tuple[Array, tuple[Array, ...]]:
    y = _attention(queries, keys, values, seen)
    return y, (queries, keys, values, seen, y)


def _backward(kept: tuple[Array, ...], dy: Array) -> tuple[Array | None, ...]:
    """Dao et al. 2022, "FlashAttention", appendix B.4, without blocks: d scores = weights · (d weights − dy · y)."""
    seen, scale = kept[3], kept[0].shape[-1] ** -0.5
    q, k, v, y, dy = (x.swapaxes(1, 2) for x in (*kept[:3], kept[4], dy))  # heads first
    q = q * jnp.asarray(scale, q.dtype)
    scores = jnp.einsum("batc,basc->bats", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen[None, None], scores, -1e30), axis=-1)
    dv = jnp.einsum("bats,batc->basc", weights.astype(v.dtype), dy)
    dweights = jnp.einsum("batc,basc->bats", dy, v, preferred_element_type=jnp.float32)
    along = jnp.sum(dy.astype(jnp.float32) * y, axis=-1, keepdims=True)
    dscores = (weights * (dweights - along)).astype(q.dtype)
    dq = jnp.einsum("bats,basc->batc", dscores, k) * jnp.asarray(scale, q.dtype)
    dk = jnp.einsum("bats,batc->basc", dscores, q)
    return *(x.swapaxes(1, 2) for x in (dq, dk, dv)), None


_on_cpu.defvjp(_forward, _backward)


def rotated(x: Float[Array, "b t a c"], at: Int[Array, " t"], theta: float) -> Float[Array, "b t a c"]:
    """Rotary positions: numbers i and i + c / 2 of a head, turned as a pair by at · theta^(-2i / c).

    Su et al. 2021, "RoFormer", equation 34, with the pairs of Hugging Face's models.
    """
    half = x.shape[-1] // 2
    angles = at[:, None] * theta ** (-jnp.arange(half) / half)[None]
    cos, sin = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def visible(at: Int[Array, " t"], places: Int[Array, " s"], window: int) -> Bool[Array, "t s"]:
    """Which keys, by their positions, a query sees: those of the last `window` tokens, its own among them."""
    behind = at[:, None] - places[None]
    return (behind >= 0) & (behind < window) & (places >= 0)[None]
