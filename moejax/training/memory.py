"""The least memory that a run needs, computed from shapes before anything is compiled."""

import math
import os
import sys
from collections.abc import Iterator

import jax
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import PyTree

from moejax.config import Config
from moejax.config.training import TrainOptions
from moejax.data.dataset import Dataset, rows
from moejax.errors import UserError
from moejax.kernels.multilinear import inside
from moejax.parameters import parameters
from moejax.training.frozen import is_frozen

# Their operands and results are arrays in memory, nearly all of them kept for the backward pass.
_PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")


def check_memory(config: Config, data: Dataset, model: nnx.Module, *, holds_examples: bool = True) -> None:
    """UserError if the run needs more memory than there is; `model` may hold shapes alone.

    `holds_examples`: a device holds all training examples, not the batches of a few steps alone.
    """
    limit, arrays, train = memory(), parameters(model), config.train
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(arrays))
    learnt = [p for path, p in jax.tree.leaves_with_path(arrays) if not is_frozen(path, train.frozen)]
    of_examples = sum(a.nbytes for a in data.train.values()) if holds_examples else 0
    kept = _bytes(arrays) * (1 + (train.average > 0)) + _bytes(learnt) * _beside(train) + of_examples
    if kept > limit:
        parts, advice = "its gradients and optimiser", "lower moe.num_experts, moe.hidden or model.width"
    else:  # only now: a model that is far too large cannot even be traced
        kept += activations(config, data, model)
        parts, advice = "a batch's activations", "lower train.batch_size, moe.num_experts or moe.hidden"
    if 2 * of_examples > kept:
        parts = f"{parts} and all {rows(data.train):,} training examples on a device"
        advice = "set parallel.reads to share, by which it holds the batches of a few steps"
    if kept > limit:
        raise UserError(
            f"The model has {count:,} parameters, and a run with {parts} takes at least {_gigabytes(kept)} of"
            f" memory, but there are {_gigabytes(limit)}; {advice}."
        )


def activations(config: Config, data: Dataset, model: nnx.Module) -> int:
    """Bytes of a micro-batch's products in the forward pass: of each, its result or its largest computed operand."""
    n = config.train.micro_batch_size * (2 if config.train.consistency else 1)
    batch = {name: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype) for name, a in data.train.items()}
    traced = jax.make_jaxpr(lambda model, batch, key: model(batch, train=True, key=key))(
        model, batch, jax.random.key(0)
    )
    return _products(traced.jaxpr)


def memory() -> int:
    """Bytes of memory of all devices of all processes; of CPUs, that of their machines."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit * jax.device_count()
    if not hasattr(os, "sysconf"):  # Windows does not say
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * jax.process_count()


def _beside(train: TrainOptions) -> int:
    """How many numbers a run keeps beside each that it learns: the gradient, and what the optimiser keeps of it."""
    return 1 + 2 * (train.optimizer in ("adamw", "adam"))  # of others, at least nothing


def _products(jaxpr: Jaxpr) -> int:
    total, given = 0, {id(v) for v in jaxpr.invars}  # not counted: parameters, for instance, are already
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _PRODUCTS:
            total += max(_bytes(v.aval) for v in (*equation.invars, *equation.outvars) if id(v) not in given)
        times = params["length"] if name == "scan" else 1
        parts = map(_products, _inner(equation))
        total += times * max(parts, default=0)  # the largest branch
    return total


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in (*equation.params.values(), *inside(equation)):
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield getattr(part, "jaxpr", part)


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.0f} GB" if count >= 1e10 else f"{count / 1e9:.1f} GB"
