"""A stranger's script: expert parallelism on a mesh of one's own, in a training loop of one's own.

Run by `test_plain_process.py`: in a process of its own it may ask for eight CPU devices.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import moejax
from benchmarks.suite.crossing import bytes_crossing

jax.config.update("jax_num_cpu_devices", 8)


def test_a_mesh_of_ones_own():
    axes = moejax.MeshAxes(tokens=("dp", "ep"), experts="ep")
    mesh = jax.make_mesh((2, 4), ("dp", "ep"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    layer = moejax.SparseMoE(16, 8, lambda rngs: moejax.MLP(16, 64, rngs=rngs), mesh_axes=axes, rngs=nnx.Rngs(0))
    layer = jax.device_put(layer, nnx.get_named_sharding(layer, mesh))  # experts along ep, the router everywhere
    x = jax.device_put(jax.random.normal(jax.random.key(0), (8, 32, 16)), jax.NamedSharding(mesh, jax.P(("dp", "ep"))))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(layer, state):
        loss, gradient = jax.value_and_grad(lambda layer: jnp.mean((layer(x, train=True)[0] - x) ** 2))(layer)
        change, state = optimizer.update(gradient, state, layer)
        return optax.apply_updates(layer, change), state, loss

    state, losses = jax.jit(optimizer.init)(layer), []
    for _ in range(20):
        layer, state, loss = step(layer, state)
        losses.append(loss)
    # The script ends here.
    assert losses[-1] < losses[0] / 2
    assert layer.experts.up.kernel.sharding.spec == state[0].mu.experts.up.kernel.sharding.spec == jax.P("ep")
    crossing = bytes_crossing(step.lower(layer, state).compile().as_text())
    assert crossing.keys() == {"all-to-all", "all-reduce"}


@pytest.mark.parametrize("names", [3, ("data", 3), None])
def test_names_that_are_none_are_one_sentence(names):
    with pytest.raises(ValueError, match="it must be the name of a mesh axis, or a tuple of names"):
        moejax.MeshAxes(tokens=names)
