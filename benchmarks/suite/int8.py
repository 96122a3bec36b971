"""What do experts in int8 save and cost?  python -m benchmarks int8   (2 minutes on two CPU cores)

Forward, at evaluation. The same layer with matrices in float32, with everything in bfloat16, and with the experts'
matrices in int8 (`moejax.quantize`), in turns. The error is that of the output, as a share of the float32 output's root
mean square.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from benchmarks.harness.interleave import interleave, ratio
from benchmarks.suite.cases import Case, program, sparse, tokens
from moejax.layers import SparseMoE
from moejax.quantization import quantize
from moejax.report.markdown import markdown

TURNS = 9
TOKENS = (1, 32, 2048)
SHAPES = tuple(Case(1, d, h, 8, 2) for d, h in ((256, 512), (1024, 4096)))
SMALL = Case(1, 16, 32, 4, 2)


def forward(layer: SparseMoE, x: Float[Array, "1 t d"]) -> Float[Array, "1 t d"]:
    """The layer's output at evaluation."""
    return layer(x)[0]


def layers(case: Case, dispatch: str) -> dict[str, SparseMoE]:
    """The same parameters three times; of the bfloat16 layer its matrices are kept in it, too."""
    whole, half = sparse(case, dispatch), sparse(case._replace(dtype="bfloat16"), dispatch)
    half.experts = jax.tree.map(lambda a: a.astype("bfloat16"), half.experts)
    return {"float32": whole, "bfloat16": half, "int8": jax.jit(quantize)(whole)}


def row_of(case: Case, dispatch: str, turns: int = TURNS) -> dict:
    """Milliseconds, the speed against float32, bytes and error of each."""
    of, (x, _) = layers(case, dispatch), tokens(case)
    inputs = {name: x.astype("bfloat16") if name == "bfloat16" else x for name in of}
    programs = {name: program(forward, layer, inputs[name]) for name, layer in of.items()}
    seconds = interleave({name: p.call for name, p in programs.items()}, turns)
    y = {name: np.asarray(p.call(), np.float64) for name, p in programs.items()}
    size = np.sqrt((y["float32"] ** 2).mean())
    return {
        "case": case._asdict(),
        "dispatch": dispatch,
        "ms": {name: float(1e3 * np.median(s)) for name, s in seconds.items()},
        "gain": {name: ratio(seconds["float32"], s) for name, s in seconds.items()},
        "bytes": {name: sum(a.nbytes for a in jax.tree.leaves(layer)) for name, layer in of.items()},
        "error": {name: float(np.sqrt(((a - y["float32"]) ** 2).mean()) / size) for name, a in y.items()},
    }


def table(rows: list[dict]) -> str:
    """One line a case and dispatch."""
    header = ["tokens, d, h, E, k", "dispatch", "float32", "bfloat16", "int8", "error of bfloat16", "of int8"]

    def cell(row: dict, name: str) -> str:
        time = f"{row['ms'][name]:.2f} ms" if name == "float32" else f"{row['gain'][name]['median']:.2f}×"
        return f"{time}, {row['bytes'][name] / 1e6:.1f} MB"

    return markdown(
        header,
        (
            [
                str(Case(**row["case"])),
                f"`{row['dispatch']}`",
                *(cell(row, name) for name in ("float32", "bfloat16", "int8")),
                *(f"{row['error'][name]:.2%}" for name in ("bfloat16", "int8")),
            ]
            for row in rows
        ),
    )


def run(quick: bool) -> Iterator[dict]:
    """Measure all shapes and numbers of tokens."""
    for shape in (SMALL,) if quick else SHAPES:
        for n in (4,) if quick else TOKENS:
            for dispatch in ("gather", "grouped"):
                yield row_of(shape._replace(tokens=n), dispatch, 2 if quick else TURNS)
