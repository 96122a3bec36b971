"""What a model says of one example, as values for JSON and as lines for a terminal.

Axis letters: t tokens of the example, e experts, k choices of a token.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from moejax.runs import blocks, text_answers
from moejax.runs.model import Model, Prediction, known
from moejax.runs.routes import Route, leading


class Answer(NamedTuple):
    """The answer to one input."""

    name: str  # what the input is called
    prediction: Prediction  # without the axis of examples; of several tasks [tasks, y]
    routes: Sequence[Route]  # of each layer, without the axis of examples
    image: ndarray | None = None  # as the network saw it, if it is one
    notes: Sequence[str] = ()  # what was done to the input or looks odd about it
    tokens: Sequence[str] = ()  # what its tokens are called; of an encoder those of one order of the sentences
    text: ndarray | None = None  # the tokens, if it is a text that a language model has read


def answers(model: Model, x: Any, names: Sequence[str]) -> list[Answer]:
    """One for each example of a batch."""
    found = model.answer(x)
    return [Answer(name, *jax.tree.map(lambda a, n=n: a[n], found)) for n, name in enumerate(names)]


def shares(route: Route) -> Float[ndarray, " e"]:
    """Each expert's share of the example's output, of all its tokens; sums to 1."""
    total = np.abs(np.asarray(route.gates)).sum(0)
    return total / max(total.sum(), 1e-12)


def looks(route: Route) -> Float[ndarray, "e t"]:
    """Where each expert looks: what its slots are made of (soft), else its weight in each token's output."""
    return np.asarray(np.abs(route.gates) if route.dispatch is None else route.dispatch.mean(-1)).T


def ranked(model: Model, prediction: Prediction, top: int) -> list[list[tuple[str, float]]]:
    """For each task the most probable classes, with their probabilities."""
    of_tasks = np.atleast_2d(known(prediction.probabilities))
    counts = list(model.about.tasks.values()) or [of_tasks.shape[1]]
    found = []
    for probabilities, count in zip(of_tasks, counts, strict=True):
        order = np.argsort(-probabilities[:count], kind="stable")[:top]
        found.append([(class_name(model, int(y)), float(probabilities[y])) for y in order])
    return found


def class_name(model: Model, label: int) -> str:
    """What the data call a class; its number where they have no names."""
    return model.about.classes[label] if model.about.classes and not model.about.tasks else str(label)


def as_json(model: Model, answer: Answer, top: int) -> dict[str, Any]:
    """The answer as an object: classes, probabilities, notes, and each layer's experts."""
    layers = [
        {"shares": _rounded(shares(route)), **{n: _rounded(a) for n, a in route._asdict().items() if a is not None}}
        for route in answer.routes
    ]
    if answer.text is not None:
        return text_answers.as_json(model, answer.name, answer.text, answer.prediction, top) | {"layers": layers}
    tasks = list(model.about.tasks)
    of_tasks = [
        {
            **({"task": tasks[n]} if tasks else {}),
            "class": best[0][0],
            "probability": round(best[0][1], 6),
            "top": [{"class": name, "probability": round(share, 6)} for name, share in best],
        }
        for n, best in enumerate(ranked(model, answer.prediction, top))
    ]
    said = {"tasks": of_tasks} if tasks else of_tasks[0]
    return {"input": answer.name, **said, "notes": list(answer.notes), "layers": layers}


def as_text(model: Model, answer: Answer, top: int, width: int) -> Iterator[str]:
    """The answer as lines, for a terminal of so many columns."""
    if answer.text is not None:
        yield from text_answers.as_text(model, answer.name, answer.text, *answer[1:3], top, width)
        return
    tasks = list(model.about.tasks)
    for n, ((name, share), *others) in enumerate(ranked(model, answer.prediction, top)):
        which = f"{tasks[n]} " if tasks else ""
        rest = f"   ({', '.join(f'{other} {p:.1%}' for other, p in others)})" if others else ""
        yield f"{answer.name}: {which}{name}  {share:.1%}{rest}"
    yield from (f"  note: {note}" for note in answer.notes)
    if answer.image is not None:
        yield from ["", *(line.rstrip() for line in blocks.picture(answer.image)), ""]
    for layer, route in enumerate(answer.routes):
        yield f"{layer_name(model, layer)}, {_what(model, route)}"
        if grid := grid_of(model, route):
            rows, columns = grid if grid[1] > 1 else grid[::-1]  # a token a row of the image: as one line
            yield from blocks.by_expert(looks(route).reshape(-1, rows, columns), shares(route), width)
        else:
            yield from (f"  {line}" for line in _by_token(route, answer.tokens))


def grid_of(model: Model, route: Route) -> tuple[int, int] | None:
    """Rows and columns of the layer's tokens on the image; None where they do not lie on one."""
    grid = getattr(model.module, "grid", None)
    return grid if grid is not None and len(route.gates) == grid[0] * grid[1] else None


def layer_name(model: Model, layer: int) -> str:
    """`layer 0`; of a layer with a gate for each task, whose routings count as layers, `gate of digit`."""
    tasks = list(model.about.tasks)
    return f"gate of {tasks[layer]}" if model.config.moe.layer == "multi_gate" else f"layer {layer}"


def _what(model: Model, route: Route) -> str:
    kind = model.config.moe.layer
    how = "what each expert's slots are made of" if route.dispatch is not None else "each expert's weight"
    return f"{kind}, {how}"


def _by_token(route: Route, names: Sequence[str]) -> Iterator[str]:
    """For each token its experts with their weights, the largest first."""
    if not names:
        names = [f"token {n}" for n in range(len(route.gates))] if len(route.gates) > 1 else ["all of it"]
    width = max(map(len, names))
    for name, gates in zip(names, route.gates, strict=False):
        yield f"{name:<{width}}  {', '.join(f'expert {e} {gates[e]:.2f}' for e in leading(gates)) or 'no expert'}"


def _rounded(array: ndarray) -> list:
    return (array if array.dtype.kind in "iu" else np.round(array.astype(np.float64), 6)).tolist()
