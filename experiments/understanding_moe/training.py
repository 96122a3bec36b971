"""All seeds of one configuration in one program: the main job's own step, mapped over data, model and keys.

Seed by seed it takes the steps of `python -m moejax.run` (full batches, so the order of examples does not matter). On a
CPU one seed's step comes after another's, and a single model's examples block by block: what is worked on then stays in
the cache, which is several times as fast as one step of all seeds' examples.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax import metrics
from moejax.config import Config
from moejax.data import clusters
from moejax.models import build_model
from moejax.training.early_stop import early_stop_of
from moejax.training.loop import TrainState, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import Batch, Objective, StepMetrics, make_objective
from moejax.training.optimizer import make_optimizer

Row = dict[str, Any]
CHUNK = 50  # steps in one call
BLOCK = 250  # examples


class Result(NamedTuple):
    """The seeds of one configuration, trained; arrays have a leading axis of seeds."""

    accuracy: Float[np.ndarray, " n"]  # on the examples that are no training examples
    entropy: Float[np.ndarray, " n"]  # of the dispatch of the training examples by cluster, in nats
    steps: Int[np.ndarray, " n"]  # taken until the early stop
    loss: Float[np.ndarray, "n steps"]
    seconds: float  # of training, compiling left out
    state: TrainState


def examples(setting: str, seeds: Sequence[int], split: str, n: int) -> dict[str, Array]:
    """The first n examples of a split ("train", "validation", "test") for each seed, stacked."""
    validation = n if split == "validation" else 0
    splits = [getattr(clusters.load(setting, validation, seed), split) for seed in seeds]
    return {name: jnp.asarray(np.stack([s[name][:n] for s in splits])) for name in splits[0]}


def train(
    config: Config,
    seeds: Sequence[int],
    *,
    test: str = "test",
    n: int = clusters.TRAIN,
    look: Callable[[int, TrainState], None] = lambda step, state: None,
    chunk: int = CHUNK,
) -> Result:
    """Train all seeds; `look` sees step and state after each chunk of steps, and at the beginning."""
    steps = config.train.epochs
    optimizer = make_optimizer(config.train, steps)
    objective = make_objective(config)
    if config.moe.layer == "dense" and n % BLOCK == 0:
        objective = in_blocks(objective, n // BLOCK)
    update = over_seeds(make_update(objective, optimizer))
    data = examples(config.data.setting, seeds, "train", n)
    init = make_init(lambda rngs: build_model(config, 2, rngs), optimizer)
    state = _stack([init(parameter_key(seed)) for seed in seeds])
    keys = _stack([make_keys(seed).augment for seed in seeds])

    def step(data, keys, state, _):
        keys = jax.vmap(jax.random.fold_in)(keys, state.step)
        state, told = update(state, data, keys)
        return state, told.loss

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
    def advance(state, data, keys, length):
        state, loss = jax.lax.scan(functools.partial(step, data, keys), state, length=length)
        return state, loss.T

    lengths = {min(chunk, steps), steps % chunk} - {0}
    programs = {length: advance.lower(state, data, keys, length).compile() for length in lengths}
    done, losses, seconds = 0, [], 0.0
    look(0, state)
    while done < steps and not _stopped(state):
        length = min(chunk, steps - done)
        start = time.perf_counter()
        state, loss = programs[length](state, data, keys)
        losses.append(np.asarray(loss))
        seconds += time.perf_counter() - start
        done += length
        look(done, state)
    loss = np.concatenate(losses, axis=1)
    _, entropy = tell(state.model, data)
    accuracy, _ = tell(state.model, examples(config.data.setting, seeds, test, n))
    stops = early_stop_of(state.optimizer)
    taken = np.full(len(seeds), done) if stops is None else np.asarray(stops.steps)
    return Result(np.asarray(accuracy), np.asarray(entropy), taken, loss, seconds, state)


def over_seeds(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of each seed's arguments, which have a leading axis of seeds."""
    if jax.default_backend() != "cpu":
        return jax.vmap(f)
    return lambda *arguments: jax.lax.map(lambda of_seed: f(*of_seed), arguments)


def in_blocks(objective: Objective, blocks: int) -> Objective:
    """The same objective where examples know nothing of each other: the mean over so many blocks of them.

    A block's inner values are computed again for its derivative, which is cheaper than to fetch them from memory.
    """
    of_block = jax.checkpoint(objective)

    def of_all(model: Any, batch: Batch, key: Array) -> tuple[Float[Array, ""], StepMetrics]:
        cut = jax.tree.map(lambda a: a.reshape(blocks, -1, *a.shape[1:]), batch)
        return jax.tree.map(lambda a: a.mean(0), jax.lax.map(lambda block: of_block(model, block, key), cut))

    return of_all


@jax.jit
def tell(model: Any, data: dict[str, Array]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Accuracy on some examples, and the entropy of their dispatch, of each seed."""
    return over_seeds(_tell)(model, data)


def _tell(model: Any, data: dict[str, Array]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    logits, (routing,) = model(data, train=False)
    accuracy = jnp.mean(logits.argmax(-1) == data["label"], dtype=jnp.float32)
    gates = getattr(routing, "choices", routing.gates)
    counts = metrics.label_counts(gates.reshape(len(logits), -1), data["cluster"], clusters.CLUSTERS)
    return accuracy, metrics.dispatch_entropy(counts)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stopped(state: TrainState) -> bool:
    stops = early_stop_of(state.optimizer)
    return stops is not None and bool(stops.stopped.all())
