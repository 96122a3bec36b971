"""One's own case:  python -m benchmarks layers --shape 4096,512,2048,16,2 --dtype bfloat16 --layers gather,grouped

Forward, and forward with the gradients of the tokens and of every parameter; all that is asked for takes turns in one
process, and nothing is kept but what --csv and --profile name. A sparse layer may have several routers, and a choice of
experts that is skewed, or given: one that a run made, or one of your own.

    python -m benchmarks layers --shape 1024,256,1024,8,2 --routers softmax_top_k,sigmoid,hash --layers gather,grouped
    python -m benchmarks layers --shape 1024,256,1024,8,2 --skew 1 --csv skewed.csv
    python -m benchmarks layers --shape 1024,256,1024,8,2 --given experts.npy --profile traces
"""

import argparse
import difflib
import io
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.harness.words import word
from benchmarks.suite.cases import Case
from moejax.errors import UserError, abridged
from moejax.layers import DISPATCHES, SLOT_DISPATCHES
from moejax.options import Count, NotNegative, Positive, Width, require, up_to
from moejax.routers import ROUTERS

NAMES = ("mlp", "einsum", "gather", "grouped", "soft", "dense")
IN_GROUPS = (*SLOT_DISPATCHES, "soft")  # the layers in which the tokens of a group compete
# word → the layers that it has an effect on; the others have one on all
EFFECTS = {
    "routers": DISPATCHES,
    "factor": SLOT_DISPATCHES,
    "group": IN_GROUPS,
    "skew": DISPATCHES,
    "given": DISPATCHES,
}
TOKENS = up_to(2**24)  # as many as a layer's group may have


def understood(words: Sequence[str]) -> argparse.Namespace:
    """What is asked for.

    Raises:
      UserError: a word has no effect beside the others.
    """
    asked, default = parser().parse_args(words), parser().get_default
    for name, layers in EFFECTS.items():
        value = getattr(asked, name)
        if value != default(name) and not set(layers) & set(asked.layers):
            raise UserError(
                f"--{name} is {_text(value)}, but --layers is {_text(asked.layers)}; it has an effect only on"
                f" {', '.join(layers)}."
            )
    if asked.given and asked.skew:
        raise UserError(f"--skew is {asked.skew:g}, but --given says each token's experts; leave one of them.")
    if asked.given and len(asked.shape) > 1:
        raise UserError("--given is a choice for the tokens of one --shape, but there are several; leave one.")
    return asked


def loads(asked: argparse.Namespace) -> list[tuple[Case, Int[Array, "1 t k"] | None]]:
    """Each case, and the choice of experts that is given for it.

    Raises:
      UserError: the case or the choice cannot be.
    """
    return [(case, read_given(asked.given, case) if asked.given else None) for case in cases(asked)]


def cases(asked: argparse.Namespace) -> list[Case]:
    """Each shape in each type; UserError where tokens make no whole groups for a layer that has some."""
    made = [
        Case(*shape, factor=asked.factor, group=asked.group, dtype=dtype, skew=asked.skew)
        for shape in asked.shape
        for dtype in asked.dtype
    ]
    uneven = next((case for case in made if case.tokens % case.group_size), None)
    if uneven and set(IN_GROUPS) & set(asked.layers):
        raise UserError(
            f"The {uneven.tokens} tokens of the shape {uneven} make no groups of {uneven.group_size}; give a --group"
            " that divides them."
        )
    return made


def read_given(file: Path, case: Case) -> Int[Array, "1 t k"]:
    """A saved choice: each token's experts, -1 in place of one, in an .npy file, or as `experts` of an .npz file.

    UserError for a file that has none, or one for other tokens, experts or k.
    """
    try:
        saved = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        experts = np.asarray(saved["experts"] if isinstance(saved, np.lib.npyio.NpzFile) else saved)
    except Exception as error:  # a damaged archive raises what its damage leads to: of zip, zlib, headers, memory
        why = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"--given {file} holds no array of experts ({why}); make it by numpy.save.") from None
    if not np.issubdtype(experts.dtype, np.integer) or experts.size != case.tokens * case.k:
        raise UserError(
            f"--given {file} holds {experts.dtype}{list(experts.shape)}; the shape {case} needs"
            f" {case.tokens} × {case.k} whole numbers."
        )
    experts = experts.reshape(1, case.tokens, case.k)
    in_order = np.sort(experts, axis=-1)
    twice = (in_order[..., 1:] == in_order[..., :-1]) & (in_order[..., 1:] >= 0)
    if experts.max() >= case.experts or experts.min() < -1 or twice.any():
        raise UserError(
            f"--given {file} holds experts from {experts.min()} to {experts.max()}; a token has different ones from 0"
            f" to {case.experts - 1}, or -1 in place of one."
        )
    return jnp.asarray(experts, jnp.int32)


def parser() -> argparse.ArgumentParser:
    """The words of a case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks layers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", required=True, type=_shape, metavar="T,d,h,E,k", help="one or several")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--layers",
        "--dispatch",
        type=_names(NAMES),
        default=NAMES,
        metavar="NAME,…",
        help=f"of {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--routers",
        type=_names(ROUTERS),
        default=("softmax_top_k",),
        metavar="NAME,…",
        help=f"of {', '.join(ROUTERS)} (default: softmax_top_k)",
    )
    parser.add_argument("--factor", type=word(Positive), default=1.25, help="capacity factor (default: 1.25)")
    parser.add_argument(
        "--group", type=word(TOKENS), metavar="N", help="tokens that compete for slots together (default: h / 4)"
    )
    parser.add_argument(
        "--skew", type=word(NotNegative), default=0.0, help="expert e has odds (e + 1)^-skew (default: 0)"
    )
    parser.add_argument("--given", type=Path, metavar="FILE", help="each token's experts, an .npy or .npz file")
    parser.add_argument("--turns", type=word(up_to(999)), metavar="N", default=7, help="(default: 7)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every row, with quartiles")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="a trace of JAX")
    parser.add_argument("--quick", action="store_true", help="a rougher limit, to see that it works")
    return parser


def _shape(text: str) -> tuple[int, ...]:
    try:
        tokens, d, h, experts, k = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{abridged(repr(text))} must be five whole numbers T,d,h,E,k") from None
    shape = {"T": (tokens, TOKENS), "d": (d, Width), "h": (h, Width), "E": (experts, Count), "k": (k, up_to(experts))}
    shape |= {"kh": (k * h, Width)}  # of the MLP
    try:
        for name, (size, kind) in shape.items():
            require(name, size, kind)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"of {abridged(repr(text))} {error}") from None
    return tokens, d, h, experts, k


def _names(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        for name in (found := text.split(",")):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                mean = f"did you mean {near[0]}?" if near else f"choose of {', '.join(known)}"
                raise argparse.ArgumentTypeError(f"there is no {name!r}; {mean}")
        return tuple(found)

    return names


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
