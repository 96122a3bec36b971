"""Evaluation: every example once, in order, and how the routers treated it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

from moejax import metrics
from moejax.data.dataset import Examples, is_text, rows
from moejax.inputs import ungroup
from moejax.kernels import numpy_calls
from moejax.routing import ExpertChoiceRouting, Routing, ZeroComputation
from moejax.sharding import TOKENS, constrain, replicated
from moejax.training.information import Kinds, Tables, add, tabulate
from moejax.training.objective import Batch


class BatchResult(NamedTuple):
    """Results of one batch: by example, or one for the batch; layers are stacked."""

    prediction: Int[Array, " b *tasks"]
    classes: Int[Array, ""]  # how many there are
    loss: Float[Array, " b *tasks"]  # cross-entropy, nats
    gates: Float[Array, "b l e"]  # each expert's share of the example's output
    token_shares: Float[Array, "b l t e"]  # and of each token's
    tokens: Float[Array, " l"]  # that are not padding
    droppable: Float[Array, " l"]  # what `dropped` is a share of
    load: Float[Array, "l e"]
    dropped: Float[Array, " l"]
    gate_entropy: Float[Array, " l"]
    experts_per_token: Float[Array, " l"]
    experts_computed: Float[Array, " l"] | None  # where tokens may differ in that
    zero_computation: ZeroComputation | None  # of the layers' last experts


class Evaluation(NamedTuple):
    """Results of a whole split."""

    loss: float  # mean cross-entropy, nats, over examples and tasks
    accuracy: float  # 0 to 1, the mean of the tasks, or of the tokens of text
    f1: float | None  # of class 1, where there are two classes
    prediction: Int[ndarray, " n *tasks"]
    gates: Float[ndarray, "n l e"]
    load: Float[ndarray, "l e"]
    dropped: Float[ndarray, " l"]
    gate_entropy: Float[ndarray, " l"]
    experts_per_token: Float[ndarray, " l"]
    of_tasks: tuple[float, ...] = ()  # the accuracy of each, where there are several
    tables: Tables | None = None  # what the tokens' experts go by, where it was asked for
    experts_computed: Float[ndarray, " l"] | None = None
    zero_computation: ZeroComputation | None = None


@jax.jit
def evaluate_batch(model: nnx.Module, batch: Batch) -> BatchResult:
    """Run the model forward only, with the layers' evaluation settings."""
    logits, routings = model(constrain(batch, TOKENS), train=False)
    examples = len(logits)

    def stacked(f):
        return jnp.stack([f(r) for r in routings])

    def gates(routing: Routing) -> Float[Array, "b t e"]:
        return jnp.abs(ungroup(routing.gates, (examples, model.tokens)))

    return BatchResult(
        logits.argmax(-1),
        jnp.int32(logits.shape[-1]),
        optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
        jnp.stack([metrics.token_shares(gates(r).sum(1)) for r in routings], axis=1),
        jnp.stack([metrics.token_shares(gates(r)) for r in routings], axis=1),
        stacked(metrics.real_tokens),
        stacked(_droppable),
        stacked(metrics.load),
        stacked(metrics.dropped),
        stacked(metrics.gate_entropy),
        stacked(metrics.experts_per_token),
        experts_computed=stacked(metrics.experts_computed) if all(map(metrics.adapts, routings)) else None,
        zero_computation=getattr(routings[0], "zero_computation", None),
    )


def _droppable(routing: Routing) -> Float[Array, ""]:
    """How many `metrics.dropped` is a share of: of expert choice the tokens, else what they chose."""
    tokens = metrics.real_tokens(routing)
    return tokens if isinstance(routing, ExpertChoiceRouting) else tokens * metrics.experts_per_token(routing)


def evaluate(
    model: nnx.Module, data: Examples, batch_size: int, *, kinds: Mapping[str, Kinds] | None = None
) -> Evaluation:
    """Evaluate on all of `data`, in batches of `batch_size`; the last one may be smaller.

    What is told of tokens and choices is their mean over the whole split, however they fall into batches.

    `kinds`: what the data's tokens are, to tell by which of it the experts go.
    """
    run, results, tables = replicated(evaluate_batch), [], []
    for some in (slice(start, start + batch_size) for start in range(0, rows(data), batch_size)):
        result = run(model, {name: array[some] for name, array in data.items()})
        if kinds:
            tables.append(tabulate(result.token_shares, {name: Kinds(of[some], n) for name, (of, n) in kinds.items()}))
        results.append(result._replace(token_shares=None))  # too large to keep
    of_example = functools.partial(_gather, results)
    prediction, label = of_example("prediction"), np.asarray(data["label"])
    right = prediction == label
    tokens = np.array([r.tokens for r in results], np.float64)
    choices = tokens * np.array([r.experts_per_token for r in results])
    dropped = np.array([r.droppable for r in results], np.float64)
    weights = {"load": choices, "dropped": dropped, "gate_entropy": tokens, "experts_per_token": tokens}
    weights |= {} if results[0].experts_computed is None else {"experts_computed": tokens}
    return Evaluation(
        loss=float(of_example("loss").mean()),
        accuracy=float(right.mean()),
        f1=f1(prediction == 1, label == 1) if label.ndim == 1 and results[0].classes == 2 else None,
        prediction=prediction,
        gates=of_example("gates"),
        zero_computation=results[0].zero_computation,
        **{name: _mean([getattr(r, name) for r in results], of_batch) for name, of_batch in weights.items()},
        of_tasks=() if right.ndim == 1 or is_text(data) else tuple(right.mean(0).tolist()),
        tables=add(tables) if tables else None,
    )


def routing_facts(result: Evaluation, data: Examples, gates: int = 1) -> dict[str, Any]:
    """A few numbers on how the routers treated a split.

    `dropped` is the mean over layers, `dead_experts` the sum; `least_load` and `max_violation` are the worst layer's.
    All three are of the experts that compute. There is one number a layer of `experts_per_token`, `gate_entropy`
    (nats), `label_information` and, where tokens may differ in it, `experts_computed`. `label_information` is 0 where
    the expert says nothing about the label (of the first task), 1 where each determines the other. `experts_by` has the
    share of each layer's routing that a token's position, label and content tell. The gates of a multi-gate layer, of
    which there are `gates`, count as layers; but an expert's load is that of all of them. For examples in clusters,
    `dispatch_entropy` says how mixed the clusters of each expert are.
    """
    load = result.load.reshape(-1, gates, result.load.shape[-1]).mean(1)
    information = _label_information(result.tables.shares["label"]) if result.tables else np.zeros(0)
    if result.zero_computation:
        load = load[:, : -result.zero_computation.total]
        load = load / np.maximum(load.sum(-1, keepdims=True), 1e-9)
    least, most, dead = _balance(load)
    computed = result.experts_computed
    return {
        "dropped": float(result.dropped.mean()),
        "experts_per_token": np.round(result.experts_per_token, 6).tolist(),
        **({} if computed is None else {"experts_computed": np.round(computed, 6).tolist()}),
        "gate_entropy": np.round(result.gate_entropy, 6).tolist(),
        "least_load": float(least),
        "max_violation": float(most),
        "dead_experts": int(dead),
        **_rounded({"label_information": np.asarray(information)}),
        **({"experts_by": _rounded(result.tables.explained())} if result.tables else {}),
        **({"dispatch_entropy": _dispatch_entropy(result.gates, data["cluster"])} if "cluster" in data else {}),
    }


# Each is one program: by themselves its operations would take a run's end longer to compile.
_label_information = jax.jit(jax.vmap(metrics.label_information))


@jax.jit
def _balance(load: Float[Array, "l e"]) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """The least relative load, the largest violation and how many experts are dead, over all layers."""
    return metrics.relative_load(load).min(), metrics.max_violation(load).max(), metrics.dead_experts(load).sum()


@functools.partial(jax.jit, static_argnames="num_clusters")
def _entropy_of(gates: Float[Array, "n l e"], clusters: Int[Array, " n"], num_clusters: int) -> Float[Array, " l"]:
    counts = jax.vmap(lambda of_layer: metrics.label_counts(of_layer, clusters, num_clusters), in_axes=1)(gates)
    return jax.vmap(metrics.dispatch_entropy)(counts)


def _rounded(values: Mapping[str, Float[ndarray, " l"]]) -> dict[str, list[float]]:
    return {name: np.round(array.astype(np.float64), 6).tolist() for name, array in values.items()}


def _dispatch_entropy(gates: Float[ndarray, "n l e"], clusters: Int[ndarray, " n"]) -> list[float]:
    entropy = _entropy_of(gates, clusters, num_clusters=int(clusters.max()) + 1)
    return np.round(np.asarray(entropy, np.float64), 6).tolist()


def flops_per_example(model: nnx.Module, data: Examples, batch_size: int) -> float | None:
    """FLOPs of one example's forward pass at evaluation, by the compiled program's cost analysis.

    None where the program has a loop: the analysis counts a loop's body only once.
    """
    batch = {name: array[:batch_size] for name, array in data.items()}
    model = jax.tree.map(_of_one_device, model)
    compiled = evaluate_batch.lower(model, batch).compile()
    return None if " while(" in compiled.as_text() else numpy_calls.flops(compiled) / rows(batch)


def _of_one_device(a: Array) -> Array | jax.ShapeDtypeStruct:
    """The array, or its shape if it is on several devices; an array on one reuses the program that evaluated."""
    return a if len(a.devices()) == 1 else jax.ShapeDtypeStruct(a.shape, a.dtype)


def f1(predicted: Bool[ndarray, " n"], true: Bool[ndarray, " n"]) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is right."""
    return float(2 * (predicted & true).sum() / max(predicted.sum() + true.sum(), 1))


def _mean(values: Sequence[Float[Array, "l ..."]], weights: Float[ndarray, "b l"]) -> Float[ndarray, "l ..."]:
    """A mean over batches, each layer's by the tokens or choices that it is of; zeros if there are none."""
    of_batch = np.asarray(values, np.float64)
    by = weights.reshape(*weights.shape, *[1] * (of_batch.ndim - 2))
    return (by * of_batch).sum(0) / np.maximum(by.sum(0), 1e-9)


def _gather(results: list[BatchResult], name: str) -> ndarray:
    return np.concatenate([np.asarray(getattr(r, name)) for r in results])
