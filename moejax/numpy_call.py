"""Python within a compiled program on CPU: a function of NumPy arrays that are the program's own, none copied."""

import re
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Shaped


def numpy_call(
    f: Callable[..., None], result: jax.ShapeDtypeStruct, *arguments: Shaped[Array, "..."], flops: int = 0
) -> Shaped[Array, "..."]:
    """Let the program call `f` with the arguments as arrays and one more of `result`'s shape and type, which it fills.

    It must not write to its arguments. `flops`: what it computes, for `flops` below.
    """

    def callback(context: object, out: object, *buffers: object) -> None:
        f(*map(np.asarray, buffers), np.asarray(out))

    with jax.named_scope(f"numpy_flops_{flops}"):
        return buffer_callback(callback, result)(*arguments)


def flops(compiled: jax.stages.Compiled) -> float:
    """FLOPs of a program: those that XLA counts, and those that its calls of NumPy say of themselves."""
    calls = re.findall(r'custom_call_target="xla_buffer_python.*numpy_flops_(\d+)', compiled.as_text())
    return compiled.cost_analysis()["flops"] + sum(map(int, calls))
