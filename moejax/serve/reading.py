"""What a language model makes of a text, and how it goes on with it, as objects for JSON."""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from moejax.data.text_tokens import END
from moejax.pieces import as_name, as_text
from moejax.runs.answers import layer_name, shares
from moejax.runs.model import Model, Prediction
from moejax.runs.routes import Route, leading
from moejax.runs.text import Written, tokens_of
from moejax.runs.text_answers import foretold, most_probable

MOST_TOKENS = 2048  # that are read; of longer texts the last ones
_MOST_NEXT = 12


def reading(model: Model, text: str) -> dict[str, Any]:
    """The tokens of a text, what each cost in bits, those that may follow, and each layer's experts.

    The first token is not foretold: its bits are null. An empty text is the beginning of one.
    """
    tool = model.read.text_tokens
    every = tokens_of(tool, text)
    ids = every[-MOST_TOKENS:]
    begun = time.perf_counter()
    asked = ids if ids.size else np.array([END], ids.dtype)
    prediction, routes = model.answer(_of_few_sizes(asked, model.about.shapes["tokens"][0]))
    milliseconds = 1000 * (time.perf_counter() - begun)
    of_text = Prediction(*(np.asarray(array)[0, : len(asked)] for array in prediction))
    chances = foretold(asked, of_text)[1:].tolist()
    parts = [tool.decode([token]) for token in ids.tolist()]
    followers = most_probable(of_text.probabilities[-1], _MOST_NEXT)
    best = [{**_named(tool.decode([token])), "probability": p} for token, p in followers]
    return {
        "class": best[0]["class"],
        "probability": best[0]["probability"],
        "top": best,
        "tokens": [as_name(part) for part in parts],
        "texts": as_text(parts),
        "bits": [None, *(round(-math.log2(max(p, 1e-30)), 3) for p in chances)][: len(ids)],
        "layers": [
            {"name": layer_name(model, n), **_layer(route._replace(gates=route.gates[0, : len(ids)]))}
            for n, route in enumerate(routes)
        ],
        "notes": left_out(every),
        "milliseconds": round(milliseconds, 2),
    }


def left_out(ids: np.ndarray) -> list[str]:
    """A sentence if the text is longer than what is read of it."""
    if len(ids) <= MOST_TOKENS:
        return []
    return [f"of {len(ids):,} tokens the last {MOST_TOKENS:,} are read"]


def going_on(model: Model, text: str, **options: Any) -> Iterator[dict[str, Any]]:
    """What it writes after a text, bit by bit: {"text": …}; at last {"tokens": …, "ended": whether its end came}.

    Of a long text it goes on with the last `MOST_TOKENS`.

    `options`: as of `moejax.runs.generate.Writer.write`, whose errors are raised at once.
    """
    ids = tokens_of(model.read.text_tokens, text)[-MOST_TOKENS:]
    return _written(model, model.writer.write(ids, **options))


def _written(model: Model, steps: Iterator[np.ndarray]) -> Iterator[dict[str, Any]]:
    written = Written(model.read.text_tokens)
    for (token,) in steps:
        yield {"text": written.add(int(token))}
    told = len(written.text)
    if rest := written.finished()[told:]:
        yield {"text": rest}
    yield {"tokens": written.tokens, "ended": written.ended}


def _of_few_sizes(ids: np.ndarray, length: int) -> np.ndarray:
    """Filled up behind, where no token sees it, to a window or a power of two of them: a program for each."""
    size = length
    while size < len(ids):
        size *= 2
    return np.pad(ids, (0, size - len(ids)), constant_values=END)


def _named(piece: bytes) -> dict[str, str]:
    """Its name and, where it is whole letters of a text, these."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return {"class": as_name(piece), **({} if "\0" in text else {"text": text})}


def _layer(route: Route) -> dict[str, list]:
    """Each expert's share of the text, and of each token the experts with most weight."""
    of_tokens = [[[e, round(float(abs(gates[e])), 3)] for e in leading(gates)] for gates in route.gates]
    return {"shares": np.round(shares(route).astype(np.float64), 4).tolist(), "experts": of_tokens}
