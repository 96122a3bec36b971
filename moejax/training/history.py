"""What a run records of its routing: each expert's load over the steps, and at the end the routing of the test set."""

import io
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
from moejax.training.objective import Batch, StepMetrics

_KEPT = ("load", "dropped", "gate_entropy")
_ROWS = 4096
_IMAGES_PER_EXPERT = 8
_WINDOWS = 16  # of text


class RoutingHistory:
    """Routing metrics of the training steps: a row for each chunk, or for as many that 4,096 rows are enough."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: dict[str, list[ndarray]] = {name: [] for name in _KEPT}
        self.chunks: list[int] = []  # in each row; in all but the last as many

    @classmethod
    def from_bytes(cls, content: bytes) -> "RoutingHistory":
        """Back from its packed arrays."""
        history = cls()
        with np.load(io.BytesIO(content)) as arrays:
            history.steps = arrays["step"].tolist()
            history.rows = {name: list(arrays[name]) for name in _KEPT}
            # Runs of earlier versions have a row for each chunk.
            history.chunks = arrays["chunks"].tolist() if "chunks" in arrays else [1] * len(history.steps)
        return history

    def append(self, step: int, metrics: StepMetrics) -> None:
        """Add the chunk that ended at `step`."""
        means = {name: getattr(metrics, name).mean(0) for name in _KEPT}
        if self.chunks and self.chunks[-1] < self.chunks[0]:
            n = self.chunks[-1]
            means = {name: (self.rows[name].pop() * n + mean) / (n + 1) for name, mean in means.items()}
            self.steps[-1], self.chunks[-1] = step, n + 1
        else:
            self.steps.append(step)
            self.chunks.append(1)
        for name, mean in means.items():
            self.rows[name].append(np.asarray(mean, np.float32))
        if len(self.chunks) == _ROWS and self.chunks[-1] == self.chunks[0]:
            self._halve()

    def _halve(self) -> None:
        self.steps, self.chunks = self.steps[1::2], [2 * n for n in self.chunks[1::2]]
        for name, of_name in self.rows.items():
            self.rows[name] = [(one + other) / 2 for one, other in zip(of_name[::2], of_name[1::2], strict=True)]

    def to_arrays(self) -> dict[str, ndarray]:
        """`step`, the last, and `chunks` [n], `load` [n, layer, expert], `dropped` and `gate_entropy` [n, layer]."""
        return {"step": np.array(self.steps, np.int64), "chunks": np.array(self.chunks, np.int64)} | {
            name: np.array(rows, np.float32) for name, rows in self.rows.items()
        }


@jax.jit
def _routing_of_samples(model: nnx.Module, batch: Batch) -> dict[str, Array]:
    """The gates [image, layer, token, expert] and logits of a few images; of a soft layer, its dispatch weights too.

    Where tokens may differ in that: how many experts computed [image, layer, token].
    """
    logits, routings = model(batch, train=False)

    shape = len(logits), model.tokens
    arrays = _seen(routings, shape)
    if all(map(metrics.adapts, routings)):
        arrays["sample_computed"] = _stacked(metrics.experts_of_token, routings, shape)
    if isinstance(routings[0], SoftRouting):
        arrays["sample_dispatch"] = jnp.stack([r.dispatch for r in routings], axis=1)
    return arrays


def _seen(routings: Sequence[Routing], shape: tuple[int, int]) -> dict[str, Array]:
    """What the routers saw of each token, a number for each expert or slot, and who took it."""
    return {
        "sample_gate": _stacked(lambda r: r.gates, routings, shape),
        "sample_logits": _stacked(lambda r: r.logits.reshape(*r.logits.shape[:2], -1), routings, shape),
    }


def _stacked(of: Callable[[Routing], Array], routings: Sequence[Routing], shape: tuple[int, int]) -> Array:
    """[example, layer, token, ...] of each layer's [g, t, ...]."""
    return jnp.stack([ungroup(of(routing), shape) for routing in routings], axis=1)


def pictures_of_test(model: nnx.Module, test: Examples, result: Evaluation, num_classes: int) -> dict[str, ndarray]:
    """The report's arrays about the test set.

    `label_expert` [layer, label, expert] sums the experts' shares over the tokens of a label, `position_expert` and
    `content_expert` over those of a position and of a content; `experts_by_*` [layer] is how much of the routing
    each of the three tells; `confusion` [true, predicted] counts; `top_*` [layer, expert, image, ...] are the images
    with the largest share of each expert; `sample_*` is the first image of each label, with the routing of its tokens
    if they lie on a grid. Labels and predictions of several tasks are those of the first.

    Of text `sample_tokens` [window, t] is from the middle, `sample_nats` what each of them cost, from those before it
    in its window (of the first token NaN), `sample_gate` [window, layer, t, expert] who took them, and `sample_logits`
    what the router saw.
    """
    tables = {}
    if result.tables:
        tables = {f"{name}_expert": np.asarray(table) for name, table in result.tables.shares.items()}
        tables |= {f"experts_by_{name}": values for name, values in result.tables.explained().items()}
    if is_text(test):
        return tables | _pictures_of_text(model, test)
    labels, prediction = of_first_task(np.asarray(test["label"])), of_first_task(result.prediction)
    one_hot = np.eye(num_classes)[labels]
    tables["confusion"] = (one_hot.T @ np.eye(num_classes)[prediction]).astype(np.int64)
    if "image" not in test:
        return tables
    images = np.asarray(test["image"])
    top = np.argsort(-result.gates, axis=0, kind="stable")[:_IMAGES_PER_EXPERT].transpose(1, 2, 0)
    samples = np.array([np.argmax(labels == label) for label in np.unique(labels)])
    pictures = tables | {
        "top_image": images[top],
        "top_label": labels[top],
        "top_share": np.take_along_axis(result.gates.transpose(1, 2, 0), top, axis=2),
        "sample_image": images[samples],
        "sample_label": labels[samples],
        "sample_prediction": prediction[samples],
    }
    if not hasattr(model, "grid"):
        return pictures
    samples_routing = jax.device_get(
        replicated(_routing_of_samples)(model, {name: array[samples] for name, array in test.items()})
    )
    return pictures | {"token_grid": np.array(model.grid)} | samples_routing


def _pictures_of_text(model: nnx.Module, test: Examples) -> dict[str, ndarray]:
    start = max(0, rows(test) - _WINDOWS) // 2
    sample = {name: array[start : start + _WINDOWS] for name, array in test.items()}
    seen, nats = jax.device_get(replicated(_routing_of_text)(model, sample))
    first = np.full((len(nats), 1), np.nan, np.float32)
    return {
        "sample_tokens": np.asarray(sample["tokens"]),
        "sample_nats": np.concatenate([first, nats[:, :-1]], axis=1),
        **seen,
    }


@jax.jit
def _routing_of_text(model: nnx.Module, batch: Batch) -> tuple[dict[str, Array], Array]:
    logits, routings = model(batch, train=False)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return _seen(routings, (len(logits), model.tokens)), nats
