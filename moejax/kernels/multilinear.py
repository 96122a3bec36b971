"""Functions that are linear in some of their arguments, with derivatives of their own in both directions.

`jax.custom_vjp` has no forward mode and `jax.custom_derivatives.linear_call` no vmap. A function that is linear in each
of its first arguments needs just one thing said of it: how a derivative by its result becomes one by each of those.

    @multilinear(lambda ct, x, w: ct @ w.T, lambda ct, x, w: x.T @ ct)
    def product(x, w):
        return x @ w

jvp, grad, vmap, jit, export and any nesting of them follow: forward mode calls the function itself on the tangents,
reverse mode the transposes. What computes it may differ by platform, and is chosen when a program is lowered:

    product.on("cpu", lambda lowering, x, w: ...)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

Axes = tuple[int | None, ...]  # of a vmap: which arguments it maps


class Lowering(NamedTuple):
    """What is known of a program when it is lowered."""

    exported: bool  # by jax.export: it may run in another process, without this one's Python
    devices: int  # that one call is spread over


_OF_PRIMITIVE: dict[Primitive, "Multilinear"] = {}
_WRITTEN_OUT = ContextVar("_WRITTEN_OUT", default=False)


@contextmanager
def written_out() -> Iterator[None]:
    """Inside, programs are traced with what such functions stand for: for a converter that knows JAX's primitives."""
    before = _WRITTEN_OUT.set(True)
    try:
        yield
    finally:
        _WRITTEN_OUT.reset(before)


class Multilinear:
    """A function as a primitive of JAX. The result is one array; arguments after the linear ones are integers."""

    def __init__(self, name: str, f: Callable[..., Array], transposes: tuple[Callable[..., Array], ...]):
        self.f, self.transposes = f, transposes
        self._primitive = Primitive(f"moejax_{name}")
        _OF_PRIMITIVE[self._primitive] = self
        self._compiled = cache(lambda axes: jax.jit(lambda *arguments: self._bind(*arguments, axes=axes)))
        self._primitive.def_impl(lambda *arguments, axes: self._compiled(axes)(*arguments))
        self._primitive.def_abstract_eval(self._abstract)
        ad.primitive_jvps[self._primitive] = self._jvp
        ad.primitive_transposes[self._primitive] = self._transpose
        batching.primitive_batchers[self._primitive] = self._batch
        mlir.register_lowering(self._primitive, self._lower_by(lambda lowering, *arguments: f(*arguments)))

    def __call__(self, *arguments: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The function of these arguments."""
        return self.f(*arguments) if _WRITTEN_OUT.get() else self._bind(*arguments, axes=())

    def on(self, platform: str, f: Callable[..., Array]) -> None:
        """Let `f(lowering, *arguments)` compute it on "cpu", or on "cuda"."""
        mlir.register_lowering(self._primitive, self._lower_by(f), platform=platform)

    def _bind(self, *arguments: Array, axes: tuple[Axes, ...]) -> Array:
        return self._primitive.bind(*_alike(arguments), axes=axes)

    def _abstract(self, *avals: Any, axes: tuple[Axes, ...]) -> Any:
        shape = jax.eval_shape(_mapped(self.f, axes), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
        like, replicated = avals[0], PartitionSpec(*[None] * len(shape.shape))
        return like.update(shape.shape, shape.dtype, weak_type=False, sharding=like.sharding.update(spec=replicated))

    def _jvp(self, primals: tuple, tangents: tuple, *, axes: tuple[Axes, ...]) -> tuple[Any, Any]:
        out = self._bind(*primals, axes=axes)
        change = None
        for i, tangent in enumerate(tangents[: len(self.transposes)]):
            if type(tangent) is not ad.Zero:
                term = self._bind(*primals[:i], tangent, *primals[i + 1 :], axes=axes)
                change = term if change is None else change + term
        return out, ad.Zero.from_primal_value(out) if change is None else change

    def _transpose(self, cotangent: Any, *arguments: Any, axes: tuple[Axes, ...]) -> list[Any]:
        def by(i: int, argument: Any) -> Any:
            if not ad.is_undefined_primal(argument):
                return None
            if type(cotangent) is ad.Zero:
                return ad.Zero(argument.aval)
            before, after = arguments[:i], arguments[i + 1 :]

            def transpose(ct, *others):
                return self.transposes[i](ct, *others[:i], argument.aval.dtype, *others[i:])

            return _mapped_transpose(transpose, i, axes)(cotangent, *before, *after)

        return [by(i, argument) for i, argument in enumerate(arguments)]

    def _batch(self, arguments: tuple, mapped: tuple, *, axes: tuple[Axes, ...]) -> tuple[Any, int]:
        ours = [a if at is None else jax.numpy.moveaxis(a, at, 0) for a, at in zip(arguments, mapped, strict=True)]
        return self._bind(*ours, axes=(*axes, tuple(None if at is None else 0 for at in mapped))), 0

    def _lower_by(self, f: Callable[..., Array]) -> Callable:
        def rule(context: mlir.LoweringRuleContext, *values: Any, axes: tuple[Axes, ...]):
            lowering = _lowering(context.module_context)
            lower = mlir.lower_fun(_mapped(lambda *a: f(lowering, *a), axes), multiple_results=False)
            return lower(context, *values)

        return rule


def multilinear(*transposes: Callable[..., Array]) -> Callable[[Callable[..., Array]], Multilinear]:
    """Make a function one that is linear in each of its first arguments, as many as there are transposes.

    `transposes[i](ct, *arguments)`: the derivative by argument i, given `ct`, that by the result. In its place it gets
    its dtype, which is that of what it has to return.
    """
    return lambda f: Multilinear(f.__name__, f, transposes)


def products(
    name: str, matmul: Callable[..., Array], transposed: Callable[..., Array], outer: Callable[..., Array]
) -> tuple[Multilinear, Multilinear, Multilinear]:
    """Three products that are each other's derivatives: x · w, x · wᵀ, and Σ xᵀ dy over the rows.

    Each is a function of two arrays and the same integers.
    """
    of_matmul = (lambda ct, x, w, *i: by_transposed(ct, w, *i), lambda ct, x, w, *i: by_outer(x, ct, *i))
    of_transposed = (lambda ct, x, w, *i: by_matmul(ct, w, *i), lambda ct, x, w, *i: by_outer(ct, x, *i))
    of_outer = (lambda ct, x, dy, *i: by_transposed(dy, ct, *i), lambda ct, x, dy, *i: by_matmul(x, ct, *i))
    by_matmul = Multilinear(f"{name}_matmul", matmul, of_matmul)
    by_transposed = Multilinear(f"{name}_matmul_transposed", transposed, of_transposed)
    by_outer = Multilinear(f"{name}_outer", outer, of_outer)
    return by_matmul, by_transposed, by_outer


def _alike(arguments: tuple) -> list[Array]:
    """In a shard_map: the arguments, said to differ along every axis along which one of them does."""
    varying = [jax.typeof(a).manual_axis_type.varying for a in arguments]
    together = frozenset().union(*varying)
    return [
        jax.lax.pcast(a, tuple(together - own), to="varying") if own != together else a
        for a, own in zip(arguments, varying, strict=True)
    ]


def _mapped(f: Callable, axes: tuple[Axes, ...]) -> Callable:
    for each in axes:
        f = jax.vmap(f, in_axes=each)
    return f


def inside(equation: JaxprEqn) -> Iterator[ClosedJaxpr]:
    """For who walks through a traced program: what an equation stands for if it is such a function, as written."""
    if function := _OF_PRIMITIVE.get(equation.primitive):
        arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        yield jax.make_jaxpr(_mapped(function.f, equation.params["axes"]))(*arguments)


def _mapped_transpose(f: Callable, i: int, axes: tuple[Axes, ...]) -> Callable:
    for each in axes:
        f = jax.vmap(f, in_axes=(0, *each[:i], *each[i + 1 :]))
        if each[i] is None:
            f = partial(lambda of_each, *arguments: of_each(*arguments).sum(0), f)
    return f


def _lowering(module: mlir.ModuleContext) -> Lowering:
    context = module.axis_context
    manual = getattr(context, "manual_axes", frozenset())
    mesh = getattr(context, "mesh", None)
    if mesh is None:
        devices = getattr(context, "num_devices", 1)
    else:  # in a shard_map, over what is left
        devices = mesh.size
        for name in manual:
            devices //= mesh.shape[name]
    return Lowering(module.lowering_parameters.for_export, devices)
