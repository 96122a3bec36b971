"""A model as one StableHLO program for any batch, on CPUs, NVIDIA GPUs and TPUs; it needs JAX, and not this library.

call = jax.export.deserialize(open("model.stablehlo", "rb").read()).call
answer = call(images)                 uint8 [b, 28, 28]; of pairs call(first, second), token ids
answer["probabilities"]               float32 [b, y]; of several tasks [b, tasks, y]
answer["gates"]                       a tuple with float32 [b, tokens, experts] for each MoE layer
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import export
from jaxtyping import Array

from moejax.runs.model import Model
from moejax.runs.routes import by_example

PLATFORMS = ("cpu", "cuda", "tpu")


def pack(model: Model) -> bytes:
    """The program, its parameters within it; an example's answer depends on no other one's (`moejax.runs.model`)."""
    return bytes(export.export(jax.jit(answering(model)), platforms=PLATFORMS)(*inputs(model)).serialize())


def answering(model: Model) -> Callable[..., dict[str, Any]]:
    """What is exported: from the arrays that the model reads, in their order, to probabilities and gates."""

    def answer(*arrays: Array) -> dict[str, Any]:
        logits, routings = model.module(dict(zip(model.read.names, arrays, strict=True)), train=False)
        gates = tuple(by_example(r, logits.shape[0], model.module.tokens).gates for r in routings)
        return {"probabilities": jax.nn.softmax(logits), "gates": gates}

    return answer


def inputs(model: Model) -> list[jax.ShapeDtypeStruct]:
    """The arrays that the program takes, with an open number of examples."""
    (b,) = export.symbolic_shape("b")
    about = model.about
    return [jax.ShapeDtypeStruct((b, *about.shapes[name]), about.dtypes[name]) for name in model.read.names]
