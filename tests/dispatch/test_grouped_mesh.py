"""Dropless dispatch over a mesh: the numbers of one device by either way, and which way is taken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from moejax.dispatch import grouped_dispatch, grouped_mesh
from moejax.kernels.grouped_matmul import grouped_matmul
from moejax.routing import TopKRouting
from moejax.sharding import MeshAxes, _layers

G, T, E, K, D, H = 8, 6, 16, 2, 3, 4
ALONG = MeshAxes(tokens=("a", "b", "c"), experts=("b", "c"))


def product(w, rows, groups, key=None):
    return grouped_matmul(rows, w, groups)


def routing_of(experts) -> TopKRouting:
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=experts.shape), jnp.float32)
    return TopKRouting(jnp.zeros((G, T, E)), jnp.full((G, T, E), 1 / E), experts, weights)


def even() -> TopKRouting:
    return routing_of(jnp.arange(G * T * K).reshape(G, T, K) % E)


def uneven() -> TopKRouting:
    """Of each half a device has all its choices in one other; padding and drops are among them."""
    chosen = even()
    slots = jnp.zeros_like(chosen.experts).at[3, 2].set(-1)
    return chosen._replace(experts=chosen.experts.at[1::4].set(jnp.array([14, 15])).at[0, 4].set(-1), slots=slots)


@pytest.mark.parametrize(
    ("routing", "not_taken"), [(even(), "_gathered"), (uneven(), "_exchanged")], ids=["even", "uneven"]
)
@pytest.mark.parametrize("shape", [(1, 8, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)], ids=str)
def test_it_gives_the_numbers_of_one_device(routing, not_taken, shape, monkeypatch):
    monkeypatch.setattr(grouped_mesh, "ROOM", 1.2)
    real = getattr(grouped_mesh, not_taken)
    monkeypatch.setattr(grouped_mesh, not_taken, lambda *arguments: jnp.nan * real(*arguments))
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((G, T, D), (E, D, H)))

    def loss(over_mesh, x, w, weights):
        chosen = routing._replace(weights=weights)
        y = grouped_mesh.grouped_over_mesh(product, w, x, chosen) if over_mesh else of_one(w, x, chosen)
        return jnp.sum(y**2), y

    def of_one(w, x, chosen):
        return grouped_dispatch(partial(product, w), x, chosen)

    step = jax.jit(jax.value_and_grad(loss, (1, 2, 3), has_aux=True), static_argnums=0)
    want = step(False, x, w, routing.weights)
    mesh = jax.make_mesh(shape, ("a", "b", "c"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh), _layers(ALONG):
        got = step(True, x, w, routing.weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
