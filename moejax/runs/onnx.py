"""A model as one ONNX file for any batch, for what knows neither JAX nor this library, such as onnxruntime.

session = onnxruntime.InferenceSession("model.onnx")
probabilities, *gates = session.run(None, {"image": images})   uint8 [b, 28, 28]; of pairs first and second, token ids

probabilities are float32 [b, y], of several tasks [b, tasks, y]; gates, of which each MoE layer has an output (gates_0,
gates_1, ...), float32 [b, tokens, experts].
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array
from numpy import ndarray

from moejax.errors import UserError
from moejax.kernels.multilinear import written_out
from moejax.runs.model import Model
from moejax.runs.opening import alone, under
from moejax.runs.stablehlo import answering

KNOWN = (0, 10)  # the newest jax that jax2onnx 0.13 works with
LIBRARIES = ("jax2onnx", "onnxruntime")
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
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise UserError(f"onnx needs {' and '.join(missing)}, not installed here; pip install 'moejax[onnx]'.")
    names, about = list(model.read.names), model.about
    shapes = [jax.ShapeDtypeStruct(("b", *about.shapes[name]), about.dtypes[name]) for name in names]
    own = jax.jit(_in_order(model))
    outputs = ["probabilities", *(f"gates_{n}" for n in range(len(own(*_arrays(model, 1))) - 1))]
    try:
        content = _converted(_in_order(_by_einsum(model)), shapes, names, outputs)
        for arrays in (_arrays(model, batch) for batch in _BATCHES):
            got, want = _run(content, dict(zip(names, arrays, strict=True))), own(*arrays)
            off = max(float(np.abs(a - b).max()) for a, b in zip(got, want, strict=True))
            if not off <= _CLOSE:
                raise UserError(f"onnxruntime's answers differ from the model's by {off:.1g}; use --format stablehlo.")
    except UserError:
        raise
    except Exception as error:  # a converter's and a runtime's own, of many kinds
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"jax2onnx cannot write this run's network ({line}); use --format stablehlo.") from error
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


def _arrays(model: Model, batch: int) -> list[ndarray]:
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
