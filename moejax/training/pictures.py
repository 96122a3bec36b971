"""The report's arrays about the test set: tables, pictures, and the routing of a few examples."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from moejax import metrics
from moejax.data.dataset import Examples, is_text, of_first_task, rows
from moejax.inputs import ungroup
from moejax.routing import Routing, SoftRouting
from moejax.sharding import replicated
from moejax.training.evaluate import Evaluation
from moejax.training.objective import Batch

_IMAGES_PER_EXPERT = 8
_WINDOWS = 16  # of text


def routing_of_samples(model: nnx.Module, test: Examples) -> dict[str, ndarray]:
    """The routing of the test examples that a report shows: of text some windows, of images one of each label.

    `sample_gate` [example, layer, token, expert] is who took them, `sample_logits` what the router saw. Of a soft
    layer `sample_dispatch` are its dispatch weights; where tokens may differ in that, `sample_computed` [example,
    layer, token] is how many experts computed; `sample_nats` of text what the token after each one cost. Empty for
    examples that are no text, and whose tokens do not lie on a grid.
    """
    if not is_text(test) and ("image" not in test or not hasattr(model, "grid")):
        return {}
    chosen = _windows(test) if is_text(test) else first_of_each(of_first_task(np.asarray(test["label"])))
    return jax.device_get(replicated(_routing)(model, {name: array[chosen] for name, array in test.items()}))


@jax.jit
def _routing(model: nnx.Module, batch: Batch) -> dict[str, Array]:
    logits, routings = model(batch, train=False)
    shape = len(logits), model.tokens
    arrays = {
        "sample_gate": _stacked(lambda r: r.gates, routings, shape),
        "sample_logits": _stacked(lambda r: r.logits.reshape(*r.logits.shape[:2], -1), routings, shape),
    }
    if is_text(batch):
        return arrays | {"sample_nats": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])}
    if all(map(metrics.adapts, routings)):
        arrays["sample_computed"] = _stacked(metrics.experts_of_token, routings, shape)
    if isinstance(routings[0], SoftRouting):
        arrays["sample_dispatch"] = jnp.stack([r.dispatch for r in routings], axis=1)
    return arrays


def _stacked(of: Callable[[Routing], Array], routings: Sequence[Routing], shape: tuple[int, int]) -> Array:
    """[example, layer, token, ...] of each layer's [g, t, ...]."""
    return jnp.stack([ungroup(of(routing), shape) for routing in routings], axis=1)


def first_of_each(labels: ndarray) -> ndarray:
    """int [labels]: the first example of each label."""
    return np.array([np.argmax(labels == label) for label in np.unique(labels)])


def _windows(text: Examples) -> slice:
    """A few of the middle."""
    start = max(0, rows(text) - _WINDOWS) // 2
    return slice(start, start + _WINDOWS)


def pictures_of_test(model: nnx.Module, test: Examples, result: Evaluation, num_classes: int) -> dict[str, ndarray]:
    """The report's arrays about the test set.

    `label_expert` [layer, label, expert] sums the experts' shares over the tokens of a label, `position_expert` and
    `content_expert` over those of a position and of a content; `experts_by_*` [layer] is how much of the routing
    each of the three tells; `confusion` [true, predicted] counts; `top_*` [layer, expert, image, ...] are the images
    with the largest share of each expert; `sample_*` is the first image of each label, with its routing
    (`routing_of_samples`). Labels and predictions of several tasks are those of the first.

    Of text `sample_tokens` [window, t] is from the middle, and `sample_nats` what each of them cost, from those before
    it in its window; of the first token NaN.
    """
    tables = {}
    if result.tables:
        tables = {f"{name}_expert": np.asarray(table) for name, table in result.tables.shares.items()}
        tables |= {f"experts_by_{name}": values for name, values in result.tables.explained().items()}
    if is_text(test):
        return tables | _pictures_of_text(test, routing_of_samples(model, test))
    labels, prediction = of_first_task(np.asarray(test["label"])), of_first_task(result.prediction)
    one_hot = np.eye(num_classes)[labels]
    tables["confusion"] = (one_hot.T @ np.eye(num_classes)[prediction]).astype(np.int64)
    if "image" not in test:
        return tables
    images = np.asarray(test["image"])
    top = np.argsort(-result.gates, axis=0, kind="stable")[:_IMAGES_PER_EXPERT].transpose(1, 2, 0)
    first = first_of_each(labels)
    pictures = tables | {
        "top_image": images[top],
        "top_share": np.take_along_axis(result.gates.transpose(1, 2, 0), top, axis=2),
        "sample_image": images[first],
        "sample_label": labels[first],
        "sample_prediction": prediction[first],
    }
    seen = routing_of_samples(model, test)
    return pictures | ({"token_grid": np.array(model.grid)} | seen if seen else {})


def _pictures_of_text(test: Examples, seen: dict[str, ndarray]) -> dict[str, ndarray]:
    nats = seen["sample_nats"]
    first = np.full((len(nats), 1), np.nan, np.float32)
    return seen | {
        "sample_tokens": np.asarray(test["tokens"][_windows(test)]),
        "sample_nats": np.concatenate([first, nats[:, :-1]], axis=1),
    }
