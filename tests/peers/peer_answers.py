"""What peers answered, recorded in golden/, and how far our layers are from it. Needs no torch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 5e-6


def load(name):
    """A recorded case: `weights` by name, x, y, cotangent, x_gradient, and what else was recorded."""
    case = {"weights": {}}
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        for key, value in arrays.items():
            if key.startswith("weights/"):
                case["weights"][key.removeprefix("weights/")] = value
            else:
                case[key] = json.loads(str(value)) if value.dtype.kind == "U" else value
    return case


def answer(layers, x, cotangent):
    """Each layer's y, gradient of Σ y · cotangent by x, and routing; products in full float32 on every device."""
    with jax.default_matmul_precision("highest"):
        for layer in layers:
            y, pull, routing = jax.vjp(layer, x, has_aux=True)
            yield y, pull(cotangent)[0], routing


answer_fast = jax.jit(lambda *case: list(answer(*case)))
# Small programs that run once: most of their time is compilation, which takes half as long so.
answer_once = jax.jit(answer_fast, compiler_options={"xla_backend_optimization_level": 0})


def error(ours, theirs):
    """max |Δ|, as a share of the largest |value| where that is above 1."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32
    return float(np.abs(np.asarray(ours) - theirs).max() / max(1, np.abs(theirs).max()))


def errors(case, *layers, answer=answer_once):
    """Of each layer the errors of y and of the gradient by x, and its routing."""
    answers = answer(layers, jnp.asarray(case["x"]), jnp.asarray(case["cotangent"]))
    return [(error(y, case["y"]), error(dx, case["x_gradient"]), routing) for y, dx, routing in answers]
