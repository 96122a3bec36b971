"""What a language model says of one text, token by token, as values for JSON and as lines for a terminal.

Axis letters: t tokens of the text, y vocabulary, e experts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray

from moejax import metrics
from moejax.pieces import as_name
from moejax.runs.model import Model, Prediction, known
from moejax.runs.routes import AnyArray, Route, leading


def foretold(ids: Integer[ndarray, " t"], prediction: Prediction) -> Float[ndarray, " t"]:
    """The probability of each token, by what the model foretold after the one before it; NaN of the first."""
    after = prediction.probabilities[np.arange(len(ids) - 1), ids[1:]]
    return np.concatenate([[np.nan], after])


def most_probable(probabilities: Float[AnyArray, " y"], top: int) -> list[tuple[int, float]]:
    """So many tokens with their probabilities, to six places, the largest first."""
    order = np.argsort(-known(probabilities), kind="stable")[:top].tolist()
    return [(token, round(float(probabilities[token]), 6)) for token in order]


def bits_per_byte(model: Model, ids: Integer[ndarray, " t"], prediction: Prediction) -> float | None:
    """What the tokens behind the first one cost; None if there are none."""
    if len(ids) < 2:
        return None
    nats = -np.log(np.maximum(foretold(ids, prediction)[1:], np.finfo(np.float32).tiny))
    return metrics.bits_per_byte(float(nats.mean()), float(model.read.text_tokens.lengths[ids[1:]].mean()))


def as_json(model: Model, name: str, ids: Integer[ndarray, " t"], prediction: Prediction, top: int) -> dict[str, Any]:
    """All but the layers: each token with its probability and what was most probable, and what comes next."""
    names, best = [_name(model, token) for token in ids], [_best(model, row, top) for row in prediction.probabilities]
    tokens = [
        {"token": int(token), "text": text, "probability": None if np.isnan(p) else round(float(p), 6), "top": before}
        for token, text, p, before in zip(ids, names, foretold(ids, prediction), [None, *best[:-1]], strict=True)
    ]
    return {"input": name, "bits_per_byte": bits_per_byte(model, ids, prediction), "tokens": tokens, "next": best[-1]}


def as_text(
    model: Model,
    name: str,
    ids: Integer[ndarray, " t"],
    prediction: Prediction,
    routes: Sequence[Route],
    top: int,
    width: int,
) -> Iterator[str]:
    """A line a token, of so many columns: its probability, what was most probable instead, its experts by layer."""
    bits = bits_per_byte(model, ids, prediction)
    yield f"{name}: {len(ids)} token{'s' * (len(ids) > 1)}" + ("" if bits is None else f", {bits:.2f} bits a byte")
    best = [_instead(model, row, top) for row in prediction.probabilities]
    chances = ["" if np.isnan(p) else f"{p:.1%}" for p in foretold(ids, prediction)]
    columns = [["token", *(_name(model, token) for token in ids), ""], ["", *chances, ""], ["foretold", "", *best]]
    columns += [[f"layer {n}", *map(_experts, route.gates), ""] for n, route in enumerate(routes)]
    sizes = [max(map(len, column)) for column in columns]
    fits = max((n for n in range(3, len(columns) + 1) if sum(sizes[:n]) + 2 * n <= width), default=3)
    for row in zip(*columns[:fits], strict=True):
        yield "  ".join(["", *(f"{cell:<{size}}" for cell, size in zip(row, sizes, strict=False))]).rstrip()
    if left := len(columns) - fits:
        yield f"  {left} more {'layers are' if left > 1 else 'layer is'} in --json, or in a wider terminal"


def _name(model: Model, token: Any) -> str:
    return as_name(model.read.text_tokens.decode([token]))


def _best(model: Model, probabilities: Float[AnyArray, " y"], top: int) -> list[dict[str, Any]]:
    found = most_probable(probabilities, top)
    return [{"token": token, "text": _name(model, token), "probability": p} for token, p in found]


def _instead(model: Model, probabilities: Float[AnyArray, " y"], top: int) -> str:
    return "  ".join(f"{one['text']} {one['probability']:.0%}" for one in _best(model, probabilities, top))


def _experts(gates: Float[ndarray, " e"]) -> str:
    """A token's experts with their weights, the largest first."""
    return " ".join(f"{e}:{gates[e]:.2f}" for e in leading(gates)) or "none"
