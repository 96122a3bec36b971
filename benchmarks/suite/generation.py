"""How fast is text written, and how fast could it be?  python -m benchmarks generation   (3 minutes on two CPU cores)

Decoders of random parameters in float32 write bytes with a cache of 128 tokens; sparse ones have as many FLOPs a token
as the dense one of their size. A token needs each matrix that it goes through once, whatever was computed before: so
the limit is the time that reading as many bytes takes here, half of that of copying them, and a row's share is of that.
Of experts only those count that a step's tokens go to: of equally popular ones E (1 - (1 - k / E)^samples).
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.harness.interleave import interleave
from benchmarks.suite.cases import program
from moejax.config import Config, make_config
from moejax.layers import SparseMoE
from moejax.models import build_model
from moejax.parameters import parameters
from moejax.report.markdown import markdown
from moejax.router_updates import moe_layers
from moejax.runs.about import About
from moejax.runs.generate import Writer
from moejax.runs.opening import alone

TURNS, STEPS, COPIES = 7, 64, 16
WINDOW, VOCABULARY = 128, 256
SAMPLES = (1, 8)


class Size(NamedTuple):
    """A dense decoder, and sparse ones with as many FLOPs a token."""

    width: int
    depth: int
    experts: tuple[int, ...] = (8, 32)  # of each sparse one, of which a token goes to two


SIZES = (Size(64, 3), Size(256, 4), Size(512, 6))
SMALL = Size(16, 1, (4,))


def configs(size: Size) -> Iterator[Config]:
    """The dense decoder, then the sparse ones."""
    dense = dict(layer="dense", num_experts=1, hidden=4 * size.width)
    halves = dict(layer="sparse", hidden=2 * size.width, k=2, dispatch="grouped")
    for moe in (dense, *(halves | {"num_experts": count} for count in size.experts)):
        yield alone(
            make_config(
                data=dict(name="python", length=WINDOW),
                model=dict(name="decoder", width=size.width, depth=size.depth, heads=max(size.width // 64, 1)),
                moe=moe,
            )
        )


def bytes_of_step(model: nnx.Module, samples: int) -> float:
    """Of the parameters that a step reads, which writes a token of each sample."""
    found = float(_bytes(parameters(model)))
    for layer in moe_layers(model):
        if isinstance(layer, SparseMoE):
            found -= _bytes(layer.experts) * (1 - layer.k / layer.num_experts) ** samples
    return found


def _bytes(tree: object) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def copying(size: float) -> Callable[[], Array]:
    """Reads and writes so many bytes, `COPIES` times."""

    def copies(x: Float[Array, " n"]) -> Float[Array, " n"]:
        return jax.lax.fori_loop(0, COPIES, lambda _, x: x + 1, x)

    return program(copies, jnp.zeros(max(int(size) // 4, 1))).call


def writing(writer: Writer, samples: int, steps: int) -> Callable[[], object]:
    """So many steps, each of which is told before the next one begins; they go on where the last call ended."""
    endless = writer.endless(np.zeros(1, np.uint8), samples, jax.random.key(0), (jnp.float32(1), jnp.float32(1)))
    return lambda: list(islice(endless, steps))


def rows_of(size: Size, turns: int, steps: int) -> Iterator[dict]:
    """A row a decoder and number of samples, all of which have taken turns."""
    about = About("python", VOCABULARY, (), {}, {"tokens": [WINDOW]}, {"tokens": "uint8"})
    cases, calls = {}, {}
    for config in configs(size):
        model = jax.jit(lambda config=config: build_model(config, VOCABULARY, nnx.Rngs(0)))()
        writer = Writer(config, about, model)
        for samples in SAMPLES:
            case = size._asdict() | {
                "experts": config.moe.num_experts,
                "k": getattr(config.moe, "k", 1),
                "samples": samples,
            }
            cases[str(case)] = case, bytes_of_step(model, samples)
            calls[str(case)] = writing(writer, samples, steps)
            calls[f"copy {case}"] = copying(cases[str(case)][1])
    seconds = interleave(calls, turns)
    for name, (case, read) in cases.items():
        bandwidth = 2 * read * COPIES / float(np.median(seconds[f"copy {name}"]))
        rate, limit = (case["samples"] / s for s in (float(np.median(seconds[name])) / steps, read / bandwidth))
        yield {
            "case": case,
            "tokens_per_second": rate,
            "bytes_of_step": read,
            "bandwidth": bandwidth,
            "limit": limit,
            "share": rate / limit,
        }


def table(rows: list[dict]) -> str:
    """One line a decoder and number of samples."""
    header = [
        "d, blocks, E, k",
        "samples",
        "tokens/s",
        "read a step, MB",
        "memory, GB/s",
        "limit, tokens/s",
        "of limit",
    ]
    return markdown(
        header,
        (
            [
                ", ".join(str(row["case"][name]) for name in ("width", "depth", "experts", "k")),
                str(row["case"]["samples"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['bytes_of_step'] / 1e6:,.1f}",
                f"{row['bandwidth'] / 1e9:,.1f}",
                f"{row['limit']:,.0f}",
                f"{row['share']:.0%}",
            ]
            for row in rows
        ),
    )


def run(quick: bool) -> Iterator[dict]:
    """Measure all sizes."""
    for size in (SMALL,) if quick else SIZES:
        yield from rows_of(size, *((2, 8) if quick else (TURNS, STEPS)))
