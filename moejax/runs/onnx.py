"""A model as one ONNX file for any batch, for what knows neither JAX nor this library, such as onnxruntime.

session = onnxruntime.InferenceSession("model.onnx")
probabilities, *gates = session.run(None, {"image": images})   uint8 [b, 28, 28]; of pairs first and second, token ids

probabilities are float32 [b, y], of several tasks [b, tasks, y]; gates, of which each MoE layer has an output (gates_0,
gates_1, ...), float32 [b, tokens, experts].
"""

import logging
import warnings
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array
from numpy import ndarray

from moejax.data.library_errors import said_as
from moejax.errors import UserError, require_libraries
from moejax.kernels.multilinear import written_out
from moejax.runs.model import Model
from moejax.runs.opening import alone, under
from moejax.runs.stablehlo import answering

KNOWN = (0, 10)  # the newest jax that jax2onnx 0.13 works with
_CLOSE = 1e-5  # what the file may be off by, in a probability or a gate
_BATCHES = (1, 5, 33)


def pack(model: Model) -> bytes:
    """The file, which onnxruntime has run.

    Raises:
      UserError: a library is missing, or knows no jax as new as this; the converter does not know part of the network;
        or the answers differ.
    """
    if jax.__version_info__[:2] > KNOWN:
        raise UserError(
            f"jax2onnx knows no jax {jax.__version__} yet; install on Python 3.11, or use --format stablehlo."
        )
    require_libraries("onnx", "jax2onnx", "onnxruntime")
    names, about = list(model.read.names), model.about
    shapes = [jax.ShapeDtypeStruct(("b", *about.shapes[name]), about.dtypes[name]) for name in names]
    examples, own = [_examples(model, batch) for batch in _BATCHES], jax.jit(_in_order(model))
    answers = [own(*arrays) for arrays in examples]
    outputs = ["probabilities", *(f"gates_{layer}" for layer in range(len(answers[0]) - 1))]
    with said_as(lambda problem: f"jax2onnx cannot write this run's network ({problem}); use --format stablehlo."):
        content = _converted(_in_order(_by_einsum(model)), shapes, names, outputs)
        for arrays, want in zip(examples, answers, strict=True):
            got = _run(content, dict(zip(names, arrays, strict=True)))
            off = float(np.max([np.abs(a - b).max() for a, b in zip(got, want, strict=True)]))  # NaN if one is
            if not off <= _CLOSE:
                raise UserError(f"onnxruntime's answers differ from the model's by {off:.1g}; use --format stablehlo.")
    return content


def _in_order(model: Model) -> Callable[..., tuple[Array, ...]]:
    """The program with its outputs one after another."""
    answer = answering(model)

    def program(*arrays: Array) -> tuple[Array, ...]:
        found = answer(*arrays)
        return found["probabilities"], *found["gates"]

    return program


def _by_einsum(model: Model) -> Model:
    """The same function without an index: products with masks, as the definition has it, are what ONNX has."""
    if getattr(model.config.moe, "dispatch", "einsum") == "einsum":
        return model
    return under(alone(model.config.replace(moe={"dispatch": "einsum"})), model)


def _converted(program: Callable, shapes: list, names: list[str], outputs: list[str]) -> bytes:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), written_out():
            warnings.simplefilter("ignore")
            from jax2onnx import to_onnx

            return to_onnx(program, shapes, input_names=names, output_names=outputs).SerializeToString()
    finally:
        logging.disable(before)


def _examples(model: Model, batch: int) -> list[ndarray]:
    """Examples made up: ink, or the first of the words."""
    rng, about = np.random.default_rng(batch), model.about
    return [
        rng.integers(0, 256 if name == "image" else 2, (batch, *about.shapes[name])).astype(about.dtypes[name])
        for name in model.read.names
    ]


def _run(content: bytes, inputs: dict[str, ndarray]) -> list[ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options).run(None, inputs)
