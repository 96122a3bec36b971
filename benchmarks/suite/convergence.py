"""How long until 98.5 % on MNIST?  python -m benchmarks convergence   (11 minutes on two CPU cores)

Each preset as a run trains it, until it has 98.5 % of the 5,000 validation images right, looked at every 100 steps.
Seconds are of training alone: compiling stands beside them, looking is not counted. Mean and range over three seeds.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial

import jax

from benchmarks.suite.loops import compiled
from moejax import data
from moejax.config import Config
from moejax.data.dataset import Dataset, first, rows
from moejax.errors import UserError
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.report.markdown import markdown
from moejax.training.evaluate import evaluate
from moejax.training.feed import from_all
from moejax.training.loop import make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

TURNS = 3  # seeds
TARGET, EVERY = 0.985, 100
NAMES = ("mnist_dense", "mnist_sparse", "mnist_soft")


class Trainer:
    """The programs of a preset, compiled once for all seeds."""

    def __init__(self, config: Config, dataset: Dataset, every: int = EVERY):
        train = config.train
        self.train, self.every = train, every
        self.per_epoch = rows(dataset.train) // train.batch_size
        self.steps = self.per_epoch * train.epochs
        optimizer = make_optimizer(train, self.steps)
        self.init = make_init(partial(build_model, config, dataset.num_classes), optimizer)
        update = make_update(make_objective(config), optimizer, self.steps)
        state = jax.eval_shape(self.init, parameter_key(0))
        chunk = make_chunk(update, from_all(train.batch_size), every)
        self.chunk, self.compile_seconds = compiled(chunk, state, dataset.train, make_keys(0), 0)

    def until(self, target: float, dataset: Dataset, seed: int) -> dict:
        """Steps and seconds to an accuracy; `reached` says whether it came to that before the run's end."""
        examples, keys, state = jax.device_put(dataset.train), make_keys(seed), self.init(parameter_key(seed))
        seconds, step, accuracy = 0.0, 0, 0.0
        while accuracy < target and step < self.steps:
            step = min(step + self.every, (step // self.per_epoch + 1) * self.per_epoch)  # a chunk ends with its epoch
            start = time.perf_counter()
            state = jax.block_until_ready(self.chunk(state, examples, keys, step)[0])
            seconds += time.perf_counter() - start
            accuracy = evaluate(state.model, dataset.validation, self.train.evaluation_batch).accuracy
        return {
            "reached": accuracy >= target,
            "accuracy": accuracy,
            "steps": step,
            "epochs": step / self.per_epoch,
            "seconds": seconds,
            "compile_seconds": self.compile_seconds,
        }


def mnist(config: Config) -> Dataset:
    """The real data set with the preset's validation images.

    Raises:
      UserError: it is not found; the few images that come embedded will not do.
    """
    found = data.load("mnist", validation=config.data.validation, seed=config.seed)
    if found.source == "embedded":
        raise UserError("convergence needs all of MNIST, and none was found: set MOEJAX_DATA_DIR to a folder with it.")
    return found


def table(rows: list[dict]) -> str:
    """One line a preset."""
    header = ["preset", "seeds", "seconds to 98.5 %", "range", "epochs", "compile, s"]

    def line(preset: str) -> list[str]:
        runs = [row for row in rows if row["preset"] == preset]
        seconds = [row["seconds"] for row in runs]
        cells = [f"`{preset}`", str(len(runs))]
        if not all(row["reached"] for row in runs):
            return [*cells, f"not reached by {sum(not row['reached'] for row in runs)}", "", "", ""]
        epochs, compiling = (statistics.mean(row[name] for row in runs) for name in ("epochs", "compile_seconds"))
        spread = f"{min(seconds):.1f}–{max(seconds):.1f}"
        return [*cells, f"{statistics.mean(seconds):.1f}", spread, f"{epochs:.2f}", f"{compiling:.1f}"]

    return markdown(header, map(line, dict.fromkeys(row["preset"] for row in rows)))


def run(quick: bool) -> Iterator[dict]:
    """Train each preset by each seed; quickly, the tiny one on few images to half of them right."""
    for preset in ("mnist_tiny",) if quick else NAMES:
        trainer = None
        for seed in range(1 if quick else TURNS):
            config = PRESETS[preset].config.replace(seed=seed)
            dataset = first(mnist(config), 4000, 1000) if quick else mnist(config)
            trainer = trainer or Trainer(config, dataset)
            facts = trainer.until(0.5 if quick else TARGET, dataset, seed)
            yield {"preset": preset, "seed": seed, **facts}
            print(f"convergence: {preset}, seed {seed}: {facts['seconds']:.1f} s", flush=True)
