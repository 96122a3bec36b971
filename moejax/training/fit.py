"""A run from its first step to its test result: the one place where loop, evaluation, checkpoints and folder meet."""

import time
from typing import Any

import jax
import numpy as np

from moejax.config import Config
from moejax.data.dataset import Dataset
from moejax.errors import UserError
from moejax.models import build_model
from moejax.training.checkpoint import Checkpoints
from moejax.training.evaluate import Evaluation, evaluate, flops_per_example
from moejax.training.folder import RunFolder, describe_device
from moejax.training.history import RoutingHistory, test_pictures
from moejax.training.interrupt import StopSignal
from moejax.training.loop import chunk_length, initial_state, make_chunk, make_keys, make_update
from moejax.training.objective import make_objective
from moejax.training.optimizer import learning_rate_schedule, make_optimizer
from moejax.training.progress import Progress, Status

EVALUATION_BATCH = 500


class Fit:
    """One run in progress. `train` may end early on a signal; `test` finishes the run."""

    def __init__(self, config: Config, data: Dataset, folder: RunFolder, progress: Progress):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        train = config.train
        examples = len(data.train["label"])
        if train.batch_size > examples:
            raise UserError(
                f"train.batch_size is {train.batch_size}, but there are only {examples} training examples;"
                f" choose at most {examples}."
            )
        self.steps_per_epoch = examples // train.batch_size
        self.steps = self.steps_per_epoch * train.epochs
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.history = RoutingHistory()
        self.started = time.perf_counter()
        self.rates: list[float] = []

        optimizer = make_optimizer(train, self.steps)
        self.learning_rate = learning_rate_schedule(train, self.steps)
        self.chunk = make_chunk(make_update(make_objective(config), optimizer), train.batch_size)
        self.state = initial_state(lambda rngs: build_model(config, data.num_classes, rngs), optimizer, config.seed)

    def resume(self) -> None:
        """Go back to the latest checkpoint, or to the start if there is none."""
        step = self.checkpoints.latest()
        if step is not None:
            self.state = self.checkpoints.restore(step, self.state)
        step = int(self.state.step)
        self.started -= self.folder.rewind(step)
        self.history = RoutingHistory.from_arrays(self.folder.read_routing(), step)
        self.progress.message(f"resuming after step {step} of {self.steps}")

    def train(self, stop: StopSignal) -> bool:
        """Train to the last epoch; False if a signal stopped it, with everything so far saved."""
        data = jax.device_put(self.data.train)
        keys = make_keys(self.config.seed)
        length = chunk_length(self.steps_per_epoch, self.config.train.chunk)
        programs: dict[int, Any] = {}
        with self.progress.live():
            while (step := int(self.state.step)) < self.steps:
                epoch_end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
                n = min(length, epoch_end - step)
                if n not in programs:
                    programs[n] = self.chunk.lower(self.state, data, keys, n).compile()
                start = time.perf_counter()
                self.state, metrics = programs[n](self.state, data, keys)
                self._report_chunk(jax.device_get(metrics), n, time.perf_counter() - start)
                if step + n == epoch_end:
                    self._end_epoch()
                elif stop.requested:
                    self._save(None)
                if stop.requested:
                    return False
        return True

    def test(self) -> dict[str, Any]:
        """Evaluate the last state on all test examples, once, and write the run's summary."""
        model, data = self.state.model, self.data
        result = evaluate(model, data.test, EVALUATION_BATCH)
        self._log_evaluation("test", result)
        self.folder.write_routing(self.history.to_arrays() | test_pictures(model, data.test, result, data.num_classes))
        summary = {
            "config": self.config.name,
            "seed": self.config.seed,
            "dataset": data.name,
            "data_source": data.source,
            "data_origin": data.origin,
            "data_sha256": data.sha256,
            "train_examples": len(data.train["label"]),
            "validation_examples": len(data.validation["label"]),
            "test_examples": len(data.test["label"]),
            "test_accuracy": result.accuracy,
            "test_loss": result.loss,
            "dropped": float(result.dropped.mean()),
            "least_load": float((result.load * result.load.shape[-1]).min()),
            "seconds": round(self._seconds(), 2),
            "examples_per_second": round(float(np.median(self.rates)), 1) if self.rates else None,
            "parameters": sum(p.size for p in jax.tree.leaves(model)),
            "flops_per_image": flops_per_example(model, data.test, EVALUATION_BATCH),
            "device": describe_device(),
            "notes": list(data.notes),
        }
        self.folder.write_summary(summary)
        return summary

    def _report_chunk(self, metrics: Any, n: int, seconds: float) -> None:
        step = int(self.state.step)
        if not np.isfinite(metrics.loss).all():
            first = step - n + 1 + int(np.argmin(np.isfinite(metrics.loss)))
            raise UserError(
                f"The loss is not a finite number from step {first} on; lower train.learning_rate"
                f" ({self.config.train.learning_rate:g}). {self.folder.path} keeps what came before."
            )
        rate = n * self.config.train.batch_size / seconds
        self.rates.append(rate)
        self.history.append(step, metrics)
        self._log(
            "train",
            loss=float(metrics.loss.mean()),
            accuracy=float(metrics.accuracy.mean()),
            auxiliary=float(metrics.auxiliary.mean()),
            learning_rate=float(self.learning_rate(step - 1)),
            examples_per_second=round(rate, 1),
        )
        self.progress.update(
            Status(
                epoch=-(-step // self.steps_per_epoch),
                epochs=self.config.train.epochs,
                step=step,
                steps=self.steps,
                loss=float(metrics.loss.mean()),
                accuracy=float(metrics.accuracy.mean()),
                examples_per_second=rate,
                dropped=float(metrics.dropped.mean()),
                load=metrics.load.mean(0),
            )
        )

    def _end_epoch(self) -> None:
        if not len(self.data.validation["label"]):
            return self._save(None)
        result = evaluate(self.state.model, self.data.validation, EVALUATION_BATCH)
        self._log_evaluation("validation", result)
        self.progress.message(
            f"epoch {int(self.state.step) // self.steps_per_epoch}: validation loss {result.loss:.4f}"
            f"  accuracy {result.accuracy:.2%}  dropped {result.dropped.mean():.2%}  ({self._seconds():.0f} s)"
        )
        self._save(result.accuracy)

    def _save(self, accuracy: float | None) -> None:
        self.folder.write_routing(self.history.to_arrays())
        self.checkpoints.save(self.state, accuracy)

    def _log_evaluation(self, kind: str, result: Evaluation) -> None:
        lists = {name: np.round(getattr(result, name), 6).tolist() for name in ("dropped", "gate_entropy")}
        self._log(kind, loss=result.loss, accuracy=result.accuracy, **lists)

    def _log(self, kind: str, **values: Any) -> None:
        step = int(self.state.step)
        place = {"kind": kind, "step": step, "epoch": round(step / self.steps_per_epoch, 4)}
        self.folder.log(place | values | {"seconds": round(self._seconds(), 2)})

    def _seconds(self) -> float:
        return time.perf_counter() - self.started
