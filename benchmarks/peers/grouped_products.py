"""Products of rows sorted by expert, as others compute them: what a `grouped` layer can be timed with beside our own.

Each is a function `(rows [n, d], matrices [e, d, h], rows of each expert [e]) → [n, h]` with a derivative. To add one,
write what makes it and give it a line in `PRODUCTS`; one that is not installed is left out of a benchmark.
"""

import importlib
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from moejax.dispatch import grouped_dispatch
from moejax.kernels.grouped_matmul import rows_of_groups
from moejax.kernels.groups import Groups
from moejax.layers import SparseMoE
from moejax.routers import Context

Product = Callable[[Float[Array, "n d"], Float[Array, "e d h"], Int[Array, " e"]], Float[Array, "n h"]]


def ragged_dot() -> Product:
    """XLA's own; on CPU a masked dense product, E times the work."""
    return lax.ragged_dot


def kernels(name: str) -> Product:
    """Those of `moejax.kernels.gpu` by name, whichever our `grouped` uses on this GPU."""
    module = importlib.import_module(f"moejax.kernels.gpu_{name}")

    @jax.custom_vjp
    def product(x, w, sizes):
        return module.matmul(x, w, Groups.of(sizes), False)

    def backward(residual, dy):
        x, w, sizes = residual
        groups = Groups.of(sizes)
        return module.matmul(dy, w, groups, True), module.outer(x, dy, groups), None

    product.defvjp(lambda x, w, sizes: (product(x, w, sizes), (x, w, sizes)), backward)
    return product


PRODUCTS: dict[str, Callable[[], Product]] = {
    "ragged_dot": ragged_dot,
    "mosaic": partial(kernels, "mosaic"),
    "tokamax": partial(kernels, "tokamax"),
}


def forward_with(product: Product) -> Callable[[SparseMoE, Float[Array, "1 t d"]], Float[Array, "1 t d"]]:
    """A sparse layer's output by our router and our way of sorting tokens, its experts' products by `product`."""

    def apply(groups: Groups, linear: nnx.Linear, x: Float[Array, "n d"]) -> Float[Array, "n h"]:
        x, kernel, bias = linear.promote_dtype((x, linear.kernel[...], linear.bias[...]), dtype=linear.dtype)
        return product(x, kernel, groups.sizes) + rows_of_groups(bias, groups, len(x))

    def forward(layer: SparseMoE, x: Float[Array, "1 t d"]) -> Float[Array, "1 t d"]:
        routing = layer.router(x, None, Context(train=True))

        def experts(rows: Float[Array, "n d"], groups: Groups) -> Float[Array, "n d"]:
            return layer.experts(rows, linear=partial(apply, groups))

        return grouped_dispatch(experts, x, routing)

    return forward


def installed() -> dict[str, Product]:
    """Those of `PRODUCTS` that can be imported here."""
    found = {}
    for name, make in PRODUCTS.items():
        try:
            found[name] = make()
        except Exception:  # not installed, or not made for this version of JAX
            continue
    return found


def relative_error(answer: object, reference: object) -> float:
    """‖answer - reference‖ / ‖reference‖ over all arrays of two pytrees, in float32."""

    def length(arrays: list[Array]) -> Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(a.astype(jnp.float32))) for a in arrays))

    a, b = jax.tree.leaves(answer), jax.tree.leaves(reference)
    return float(length([x.astype(jnp.float32) - y for x, y in zip(a, b, strict=True)]) / length(b))
