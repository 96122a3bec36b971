"""A stranger's script: expert parallelism on a mesh of one's own, with optax and no other part of moejax.

Run by `test_plain_process.py`: in a process of its own it may ask for eight CPU devices.
"""

import pytest

# The script begins.
import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import optax
from flax import nnx

import moejax

axes = moejax.MeshAxes(tokens=("dp", "ep"), experts="ep")
mesh = jax.make_mesh((2, 4), ("dp", "ep"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
layer = moejax.SparseMoE(16, 8, lambda rngs: moejax.MLP(16, 64, rngs=rngs), mesh_axes=axes, rngs=nnx.Rngs(0))
layer = jax.device_put(layer, nnx.get_named_sharding(layer, mesh))  # experts along ep, the router everywhere
x = jax.device_put(jax.random.normal(jax.random.key(0), (8, 32, 16)), jax.NamedSharding(mesh, jax.P(("dp", "ep"))))
optimizer = optax.adam(1e-2)


@jax.jit
def step(layer, state, x):
    loss, gradient = jax.value_and_grad(lambda layer: jnp.mean((layer(x, train=True)[0] - x) ** 2))(layer)
    change, state = optimizer.update(gradient, state, layer)
    return optax.apply_updates(layer, change), state, loss


# The script ends.
