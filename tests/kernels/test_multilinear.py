"""Functions that are linear in their arguments: equal to JAX's own product under every transformation and nesting."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.custom_batching import custom_vmap
from reference import draw

from moejax.kernels.multilinear import Lowering, multilinear
from moejax.kernels.numpy_calls import called_by_name, numpy_call

lowered: list[Lowering] = []


@multilinear(lambda ct, x, w: product(ct, w.T), lambda ct, x, w: product(x.T, ct))
def product(x, w):
    return x @ w


def on_cpu(lowering, x, w):
    lowered.append(lowering)
    return x @ w if lowering.exported else by_numpy(x, w)


product.on("cpu", on_cpu)


@called_by_name("moejax_test_products")
def fill_products(x, w, out):
    np.matmul(x, w, out=out)


@custom_vmap
def by_numpy(x, w):
    return numpy_call(fill_products, jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[-1]), x.dtype), x, w)


@by_numpy.def_vmap
def of_batch(batch, mapped, x, w):
    whole = (a if m else jnp.broadcast_to(a, (batch, *a.shape)) for a, m in zip((x, w), mapped, strict=True))
    return by_numpy(*whole), True


def f(product, x, w):
    return jnp.sin(product(jnp.tanh(x), w)).sum()


def twice(a, axis=0):
    return jnp.stack([a, a + 1], axis)


TRANSFORMATIONS = {
    "as it is": lambda f: f,
    "jit": jax.jit,
    "grad": lambda f: jax.grad(f, (0, 1)),
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (x + 1, 2 * w)),
    "jvp of grad": lambda f: lambda x, w: jax.jvp(jax.grad(f, (0, 1)), (x, w), (x + 1, 2 * w)),
    "hessian": jax.hessian,
    "linearize": lambda f: lambda x, w: jax.linearize(f, x, w)[1](x, w),
    "vmap": lambda f: lambda x, w: jax.vmap(f, (0, None))(twice(x), w),
    "grad of vmap": lambda f: lambda x, w: jax.grad(lambda w: jax.vmap(f, (0, None))(twice(x), w).sum())(w),
    "vmap within vmap of grad": lambda f: (
        lambda x, w: jax.vmap(jax.vmap(jax.grad(f, (0, 1)), (0, None)), (None, 0))(twice(x), twice(w))
    ),
    "remat within vmap along other axes": lambda f: jax.grad(
        lambda x, w: jax.vmap(jax.checkpoint(f), (1, 2))(twice(x, 1), twice(w, 2)).sum(), (0, 1)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_equals_jaxs_own_product_under(name):
    x, w = draw(0, 3, 4), draw(1, 4, 5)
    got, want = (jax.jit(TRANSFORMATIONS[name](partial(f, p)))(x, w) for p in (product, jnp.matmul))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    assert lowered[-1] == Lowering(exported=False, devices=1)


def test_an_exported_program_is_told_so_and_runs_for_any_batch():
    x, w = draw(0, 5, 4), draw(1, 4, 5)
    (b,) = export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((b, 4), x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    gradient = jax.jit(jax.grad(partial(f, product), (0, 1)))
    exported = export.export(gradient, platforms=("cpu", "cuda", "tpu"))(*shapes)
    assert lowered[-1].exported
    again = export.deserialize(exported.serialize())
    for rows in (1, 5):
        got, want = again.call(x[:rows], w), gradient(x[:rows], w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_the_number_of_devices_is_told():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, w = jax.device_put(draw(0, 8, 4), rows), draw(1, 4, 5)
    got = jax.jit(product.__call__)(x, w)
    assert lowered[-1].devices == 4
    spread = jax.shard_map(product.__call__, mesh=mesh, in_specs=(rows.spec, None), out_specs=rows.spec)
    np.testing.assert_allclose(jax.jit(spread)(x, w), got, rtol=1e-5, atol=1e-6)
    assert lowered[-1].devices == 1
