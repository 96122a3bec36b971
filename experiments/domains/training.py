"""One run of the main job without its folder: the same steps, in one process, whose compiled programs serve all seeds.

A run takes seconds, less than a process, a report and checkpoints would.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from numpy import ndarray

from moejax import metrics
from moejax.config import Config
from moejax.data import load_of
from moejax.data.dataset import Dataset, rows
from moejax.models import build_model
from moejax.options import Options
from moejax.parameters import parameters
from moejax.training.average import averaged
from moejax.training.evaluate import evaluate
from moejax.training.feed import from_all
from moejax.training.loop import make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer
from moejax.upcycling import copies

Begin = Callable[[Any], Any]


class Result(NamedTuple):
    """A network, trained, and what it does with the examples of a split."""

    model: Any
    accuracy: float
    domain_expert: Float[ndarray, "y e"]  # each domain's examples by expert: sums of gates
    load: Float[ndarray, " e"]
    train_accuracy: float  # of the last epoch
    parameters: int
    flops: float  # of an image: twice the weights of the matrices that it is multiplied by
    seconds: float  # of training, without the first chunk, which compiles


def train(config: Config, split: str = "test", begin: Begin = lambda model: model) -> Result:
    """Train as `python -m moejax.run` does, from the first parameters or what `begin` makes of them; evaluate once."""
    data, batch_size = _data(config.data, config.seed), config.train.batch_size
    of_all_seeds = config.model_copy(update={"seed": 0, "data": None})
    init, chunk, steps = _programs(of_all_seeds, rows(data.train), data.num_classes)
    state, keys = init(parameter_key(config.seed)), make_keys(config.seed)
    state = state._replace(model=begin(state.model))
    examples = {name: jnp.asarray(array) for name, array in data.train.items()}
    an_epoch, right, start = rows(data.train) // batch_size, [], 0.0
    while (step := int(state.step)) < steps:
        n = min(config.train.chunk, an_epoch - step % an_epoch)
        state, told = chunk(state, examples, keys, step + n)
        right = (right if step % an_epoch else []) + told.accuracy[:n].tolist()
        start = start or time.perf_counter()  # the first chunk compiles
    seconds = time.perf_counter() - start
    model, examples = averaged(state), getattr(data, split)
    result = evaluate(model, examples, config.train.evaluation_batch)
    (gates,), domain = result.gates.swapaxes(0, 1), examples["domain"]
    return Result(
        model,
        result.accuracy,
        np.asarray(metrics.label_counts(jnp.asarray(gates), jnp.asarray(domain), int(domain.max()) + 1)),
        result.load[0],
        float(np.mean(right)),
        sum(leaf.size for leaf in jax.tree.leaves(parameters(model))),
        2 * (_matrices(model.moe.router, 2) + _matrices(model.moe.experts, 3) * float((gates > 0).mean())),
        seconds,
    )


def _matrices(module: Any, axes: int) -> int:
    """The weights of a router's or of the experts' matrices, which are those of so many axes or more."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters(module)) if leaf.ndim >= axes)


def upcycled(config: Config, dense_epochs: int, split: str = "test") -> Result:
    """Begin with one expert for all images; then with copies of it, whose router is new (Komatsuzaki et al. 2023)."""
    alone = {"layer": "dense", "num_experts": 1}
    dense = train(config.replace(moe=alone, train={"epochs": dense_epochs}), split).model
    expert = jax.tree.map(lambda a: a[0], dense.moe.experts)

    def begin(model: Any) -> Any:
        model.moe.experts = copies(expert, config.moe.num_experts, rngs=nnx.Rngs(config.seed))
        return model

    return train(config.replace(train={"epochs": config.train.epochs - dense_epochs}), split, begin)


@functools.lru_cache(2)
def _data(options: Options, seed: int) -> Dataset:
    return load_of(options, seed)


@functools.lru_cache(8)
def _programs(config: Config, examples: int, num_classes: int) -> tuple[Callable, Callable, int]:
    """The first state, a chunk of steps, and how many steps there are."""
    steps = examples // config.train.batch_size * config.train.epochs
    optimizer = make_optimizer(config.train, steps)
    update = make_update(make_objective(config), optimizer, steps)
    init = make_init(lambda rngs: build_model(config, num_classes, rngs), optimizer)
    return init, make_chunk(update, from_all(config.train.batch_size), config.train.chunk), steps
