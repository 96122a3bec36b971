"""Ways to run the same steps of training: the scanned loop, and the ordinary one over NumPy arrays.

Each is a call that trains so many further steps, from its own initial state, on the same examples in the same order
with the same compiled update. The scanned loop keeps the data on the device and runs all steps in one call; the plain
one indexes NumPy arrays and calls the jitted step for each batch, without waiting for it ("plain") or reading its loss
as many loops do ("reading").
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy import ndarray

from moejax.config import Config
from moejax.models import build_model
from moejax.training.feed import epoch_order, from_all
from moejax.training.loop import TrainState, make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer


class Loop(NamedTuple):
    """A loop that goes on training with every call."""

    call: Callable[[], Any]  # what it returns is waited for
    compile_seconds: float


def random_images(examples: int) -> dict[str, ndarray]:
    """As many as that, of random pixels: a step takes as long on them as on digits."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (examples, 28, 28), dtype=np.uint8),
        "label": rng.integers(0, 10, examples).astype(np.int32),
    }


def make_loops(config: Config, host: dict[str, ndarray], steps: int, schedule: int) -> dict[str, Loop]:
    """All three; a call trains one epoch of `steps` steps on the examples, of a `schedule` of so many."""
    size, keys = config.train.batch_size, make_keys(0)
    optimizer = make_optimizer(config.train, schedule)
    update = make_update(make_objective(config), optimizer, schedule)
    init = make_init(lambda rngs: build_model(config, 10, rngs), optimizer)
    state, device = jax.eval_shape(init, parameter_key(0)), jax.device_put(host)
    batch = {name: array[:size] for name, array in host.items()}
    chunk, chunk_seconds = compiled(make_chunk(update, from_all(size), steps), state, device, keys, 0)
    step, step_seconds = compiled(jax.jit(update, donate_argnums=0), state, batch, keys.augment)
    fold = jax.jit(jax.random.fold_in)

    def scanned(state: TrainState) -> TrainState:
        return chunk(state, device, keys, int(state.step) + steps)[0]

    def plain(state: TrainState, read_loss: bool = False) -> TrainState:
        before = int(state.step)
        order = np.asarray(epoch_order(keys.order, before // steps, steps * size))
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            state, metrics = step(
                state, {name: array[rows] for name, array in host.items()}, fold(keys.augment, before + i)
            )
            if read_loss:
                float(metrics.loss)
        return state

    def going_on(run: Callable[[TrainState], TrainState]) -> Callable[[], TrainState]:
        state = init(parameter_key(0))

        def call() -> TrainState:
            nonlocal state
            state = run(state)
            return state

        return call

    return {
        "scanned": Loop(going_on(scanned), chunk_seconds),
        "plain": Loop(going_on(plain), step_seconds),
        "reading": Loop(going_on(lambda state: plain(state, read_loss=True)), step_seconds),
    }


def compiled(f: Callable, *arguments: Any) -> tuple[Callable, float]:
    """A jitted function's program for such arguments, and the seconds that tracing and compiling it took."""
    start = time.perf_counter()
    return f.lower(*arguments).compile(), time.perf_counter() - start
