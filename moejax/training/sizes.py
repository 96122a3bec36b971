"""What is checked before a run makes its folder: a run that cannot work leaves none behind."""

from pathlib import Path

import jax
from flax import nnx

from moejax.config import Config
from moejax.data.dataset import Dataset, is_text, rows
from moejax.errors import UserError
from moejax.models import build_model
from moejax.training import frozen, writers
from moejax.training.beginning import beginning
from moejax.training.memory import check_memory
from moejax.training.parallel import Parallel

STEPS = 2**31 - 1  # steps are counted in int32


def check(config: Config, data: Dataset) -> None:
    """UserError if this configuration cannot train on these examples; works on shapes, compiles nothing."""
    check_sizes(config, data)
    writers.check(config)
    model = jax.eval_shape(lambda: build_model(config, data.to_answer, nnx.Rngs(0), image_shape=data.image_shape))
    frozen.check(model, config.train.frozen)
    parallel = Parallel.of(config, data.image_shape)
    check_memory(config, data, model, holds_examples=not parallel.reads_shares)
    if config.init is not None:
        beginning(config, model)


def check_done(config: Config, data: Dataset, step: int, run: Path) -> None:
    """UserError if the run in the folder `run` has taken more steps already than its configuration has."""
    steps_per_epoch, epochs = rows(data.train) // config.train.batch_size, config.train.epochs
    if step > steps_per_epoch * epochs:
        raise UserError(
            f"train.epochs is {epochs}, but {run} has done {step / steps_per_epoch:.4g} epochs; give it more, or start"
            " another run."
        )


def check_sizes(config: Config, data: Dataset) -> None:
    """UserError if a batch is larger than the data, no epoch can be the best, or steps are too many to count."""
    examples, batch, epochs = rows(data.train), config.train.batch_size, config.train.epochs
    if config.train.tested == "best" and not rows(data.validation):
        raise UserError("train.tested is best, but there are no validation examples; choose train.tested=last.")
    if config.train.activations and (is_text(data.train) or not rows(data.validation)):
        why = "text has no label a window" if is_text(data.train) else "there are no validation examples"
        raise UserError(f"train.activations is true, but {why}, of which it would write a line; leave it out.")
    if batch > examples:
        raise UserError(
            f"train.batch_size is {batch}, but there are only {examples} training examples; choose at most {examples}."
        )
    if examples // batch * epochs > STEPS:
        raise UserError(
            f"train.epochs is {epochs}, which makes {examples // batch * epochs} steps; choose at most"
            f" {STEPS // (examples // batch)}."
        )
