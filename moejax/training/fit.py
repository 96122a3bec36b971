"""A run from its first step to its test result: the one place where loop, evaluation, checkpoints and folder meet."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from moejax import metrics_log, predictions
from moejax.config import Config
from moejax.data.dataset import Dataset, Examples, of_first_task, rows
from moejax.errors import UserError
from moejax.files import packed
from moejax.interrupt import StopSignal
from moejax.models import build_model, notes, pretrained
from moejax.parameters import parameters
from moejax.predictions import Predictions
from moejax.runs import about
from moejax.runs.checkpoint import IDENTITY
from moejax.training import diagnosis, early_stop, frozen, processes, trace
from moejax.training.average import averaged
from moejax.training.beginning import beginning, filled
from moejax.training.checkpoint import Checkpoints
from moejax.training.evaluate import Evaluation, evaluate
from moejax.training.film import frame
from moejax.training.finite import all_finite, finite_rows, not_finite
from moejax.training.folder import RunFolder
from moejax.training.history import RoutingHistory
from moejax.training.identity import EPOCHS, check_same, identity, other_epochs
from moejax.training.information import Kinds, kinds_of_tokens
from moejax.training.log import Log, rounded
from moejax.training.loop import TrainState, make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import StepMetrics
from moejax.training.optimizer import learning_rate_schedule, make_optimizer, relayout
from moejax.training.parallel import Parallel
from moejax.training.pictures import pictures_of_test
from moejax.training.progress import Progress, Status
from moejax.training.sizes import check_done, check_sizes
from moejax.training.skipping import Skipping
from moejax.training.summary import (
    facts_of_data,
    facts_of_network,
    facts_of_test,
    facts_of_validation,
    gates_of_layer,
    in_words,
    scores,
)
from moejax.training.tables import activations_table

_ROUTING = "routing.npz"  # what a checkpoint has beside the state, its identity and metrics.jsonl


class Fit:
    """One run in progress. `train` may end early on a signal; `test` finishes the run."""

    def __init__(
        self, config: Config, data: Dataset, folder: RunFolder, progress: Progress, *, debug_nans: bool = False
    ):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.debug_nans, self.skipping = debug_nans, Skipping(config.train.skip_nonfinite)
        self.stopped_after: int | None = None  # steps, where an early stop has ended the learning
        train = config.train
        check_sizes(config, data)
        self.steps_per_epoch = rows(data.train) // train.batch_size
        self.steps = self.steps_per_epoch * train.epochs
        self.checkpoints = Checkpoints(folder.checkpoints, keep_all=train.checkpoints == "all")
        check_done(config, data, max(self.checkpoints.steps(), default=0), folder.path)
        self.history, self.log = RoutingHistory(), Log(folder, config, self.steps_per_epoch)

        self.parallel = Parallel.of(config, data.image_shape)
        for note in (*notes(config), *filter(None, [self.parallel.note])):
            progress.message(f"note: {note}")
        make = partial(make_optimizer, train, self.steps)
        optimizer, self.other_optimizer = (make(flat=self.parallel.splits_experts == other) for other in (False, True))
        self.learning_rate = jax.jit(learning_rate_schedule(train, self.steps))
        build = partial(build_model, config, data.to_answer, image_shape=data.image_shape)
        init = make_init(lambda rngs, weights, taken: filled(build(rngs, weights), taken), optimizer)
        update = partial(
            make_update, self.parallel.objective(config), optimizer, self.steps, skips=train.skip_nonfinite > 0
        )
        self.keys = self.parallel.made(make_keys, config.seed)
        self.feed, self.examples = self.parallel.feed(data.train, self.keys.order, train.batch_size, train.chunk)

        # Two programs compiled at once: a chunk needs only the shapes of the state that the other one makes.
        given = self.parallel.made(parameter_key, config.seed), pretrained(config), self._taken(build)
        self.begun = folder.beginning()
        shapes = jax.eval_shape(init, *given)
        frozen.check(shapes.model, train.frozen)
        init_lowered = self.parallel.over_devices(init, shapes).lower(*given)

        def program(**watching: Any) -> Callable:
            chunk = make_chunk(update(**watching), self.feed, train.chunk)
            return self.parallel.compile(chunk, self.parallel.shapes(shapes), self.examples(0, 0), self.keys, 0)

        with ThreadPoolExecutor(1) as pool:
            init_program = pool.submit(init_lowered.compile)
            self.chunk = program()
            self.state = init_program.result()(*given)
        self.watching = partial(program, watch=diagnosis.watch)
        self.begin = lambda: init_program.result()(*given)

    def _taken(self, build: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, np.ndarray]:
        """The arrays that the network begins with, of another run; none where this one has a checkpoint."""
        if self.config.init is None or self.checkpoints.steps():
            return {}
        begins = beginning(self.config, jax.eval_shape(lambda: build(nnx.Rngs(0))))
        for line in begins.said():
            self.progress.message(line)
        self.folder.begins_from(begins.record)
        return begins.arrays()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same when this run goes on."""
        return identity(self.config, self.data)

    def resume(self) -> None:
        """Go back to the latest checkpoint, or to the start if there is none: the state, and the run's files with it.

        The run may have more epochs than it had, or fewer. UserError if anything else of its configuration, or its
        data, is not what it was begun with.
        """
        latest = self.checkpoints.latest(self.progress.message) if processes.is_first() else None
        step, log, epochs = int(processes.from_first(str(latest or 0))), b"", self.config.train.epochs
        if step:
            identity, log, routing = (
                self.checkpoints.read(step, name) for name in (IDENTITY, metrics_log.NAME, _ROUTING)
            )
            before = json.loads(identity)
            check_same(before, self.identity, self.folder.path)
            epochs = before["config"][EPOCHS]
            self.state = self.restore(step)
            self.checkpoints.drop_all_but(step)
            self.skipping.go_on(metrics_log.records(log, self.folder.path / metrics_log.NAME)[0], step)
            self.history = RoutingHistory.from_bytes(routing)
            self.log.started -= json.loads(log.splitlines()[-1])["seconds"]
        if not self.folder.rewind(log, keep_tests=epochs != self.config.train.epochs):
            self.progress.message(f"{metrics_log.NAME} was damaged; it is again what it was at step {step}.")
        self.folder.go_on_as(self.config.train)
        self.progress.message(f"resuming after step {step} of {self.steps}")
        if epochs != self.config.train.epochs:
            old = learning_rate_schedule(self.config.train, self.steps_per_epoch * epochs)
            rates = self._rate_after(step), self._rate_after(step, old)
            self.progress.message(other_epochs(self.config.train.epochs, epochs, *rates))
        self._look_for_a_stop()

    def _look_for_a_stop(self) -> None:
        """Whether an early stop has ended the learning; said once."""
        if self.stopped_after is None and (learnt := early_stop.stopped_after(self.state.optimizer)) is not None:
            self.stopped_after = learnt
            self.progress.message(f"note: {early_stop.sentence(learnt)}")

    def train(self, stop: StopSignal, profile: Path | None = None) -> bool:
        """Train to the last epoch; False if a signal stopped it, with everything so far saved.

        `profile`: the folder into which a few steps are traced: not the first ones, which are slower, unless all are.
        """
        self.folder.write(about.NAME, about.files(self.data)[about.NAME])  # not before they are known to be the run's
        first = int(self.state.step)
        if shown := self.log.open(first):
            self.progress.message(shown)
        # Of a run that was to have more epochs, and was stopped here.
        if first == self.steps and not processes.any_of(bool(facts_of_validation(self.folder.read_log(), first))):
            self._validate()
        with self.progress.live():
            while (step := int(self.state.step)) < self.steps:
                n = self.chunk_at(step, self.steps)
                traces = profile is not None and (step > first or step + n == self.steps)
                n = min(n, trace.STEPS) if traces else n
                start = time.perf_counter()
                with trace.traced(profile) if traces else nullcontext():
                    metrics = self.take(self.chunk, n)
                    seconds = time.perf_counter() - start
                self._report_chunk(metrics, n, seconds)
                self._film(step + n)
                if traces:
                    self.progress.message(trace.how_to_open(profile, n))
                    profile = None
                asked = processes.any_of(stop.requested)  # once a turn: saved and stopped, or neither
                if (step + n) % self.steps_per_epoch == 0 and self._is_evaluated(step + n):
                    self._save(self._validate())
                elif asked:
                    self._save(None)
                if asked:
                    self.log.close()
                    return False
        return True

    def test(self) -> dict[str, Any]:
        """Evaluate the last state, or the best, on all test examples, once, and write the run's summary.

        UserError if all steps were skipped.
        """
        if self.skipping.total == self.steps:
            raise UserError(
                f"Nothing was learnt: all {self.steps} steps had a loss or a gradient that is not finite; lower"
                " train.learning_rate or the weights of losses."
            )
        if self.config.train.tested == "best":
            best = self._best_step() if processes.is_first() else None
            self.state = self.restore(int(processes.from_first(str(best))))
        model, data, stop = self._model(), self.data, self.stopped_after
        with self.parallel.in_use():
            kinds = kinds_of_tokens(model, data.test, data.num_classes, self.config.train.evaluation_batch)
        result = self._evaluate(data.test, kinds)
        self.log.evaluation("test", int(self.state.step), result, scores(result, data.test, data))
        self.log.tables("train", "validation", "test")
        with self.parallel.in_use():
            pictures = pictures_of_test(model, data.test, result, data.num_classes)
        self.folder.write(_ROUTING, packed(self.history.to_arrays() | pictures))
        answers = Predictions(np.asarray(data.test["label"]), result.prediction, self.identity["data"][-1])
        self.folder.write(predictions.NAME, predictions.pack(answers))
        summary = {
            "config": self.config.name,
            "seed": self.config.seed,
            **({"init": self.begun} if self.begun else {}),
            **facts_of_data(data),
            "tested_step": int(self.state.step),
            **facts_of_validation(self.folder.read_log(), int(self.state.step)),
            **facts_of_test(result, data, gates_of_layer(self.config, data)),
            "seconds": round(self.log.seconds, 2),
            "examples_per_second": self.log.rate(),
            **facts_of_network(model, data, self.config.train.evaluation_batch),
            **({"skipped_steps": self.skipping.total} if self.skipping.total else {}),
            **({} if stop is None else {"stopped_after": stop}),
            "notes": [*data.notes, *notes(self.config), *([] if stop is None else [early_stop.sentence(stop)])],
        }
        self.folder.write_summary(summary)
        if processes.is_first() and not self.checkpoints.steps():
            self.progress.message(
                f"note: {self.checkpoints.folder} holds no checkpoint any more: the run can neither go on nor be asked"
            )
        self.log.close()
        return summary

    def chunk_at(self, step: int, until: int) -> int:
        """How many steps to take at once after so many, within one epoch."""
        return min(self.config.train.chunk, self.steps_per_epoch - step % self.steps_per_epoch, until - step)

    def take(self, chunk: Callable, n: int) -> StepMetrics:
        """Take n more steps; their metrics."""
        step = int(self.state.step)
        self.state, metrics = chunk(self.state, self.examples(step, step + n), self.keys, step + n)
        return jax.tree.map(lambda rows: rows[:n], jax.device_get(metrics))

    def _report_chunk(self, metrics: StepMetrics, n: int, seconds: float) -> None:
        step = int(self.state.step)
        self._look_for_a_stop()
        good = finite_rows(metrics) if metrics.applied is None else metrics.applied
        if (bad := self.skipping.see(good)) is not None:
            raise self._not_finite(self.skipping.too_many(step - n + bad + 1), step - n + bad, until=step - n + bad + 1)
        if not good.all():
            self._report_skipped(step, int(n - good.sum()))
            metrics = jax.tree.map(lambda rows: rows[good], metrics)
        if not good.any():
            return
        rate = n * self.config.train.batch_size / seconds
        loss, accuracy = float(metrics.loss.mean()), float(metrics.accuracy.mean())
        self.history.append(step, metrics)
        self.log.write(
            "train",
            step,
            loss=loss,
            accuracy=accuracy,
            auxiliary=float(metrics.auxiliary.mean()),
            load=rounded(metrics.load.mean(0)),
            experts_per_token=rounded(metrics.experts_per_token.mean(0)),
            learning_rate=self._rate_of(step),
            steps=int(good.sum()),
            examples_per_second=round(rate, 1),
        )
        self.progress.update(
            Status(
                epoch=-(-step // self.steps_per_epoch),
                epochs=self.config.train.epochs,
                step=step,
                steps=self.steps,
                loss=loss,
                accuracy=accuracy,
                examples_per_second=rate,
                dropped=float(metrics.dropped.mean()),
                load=metrics.load.mean(0),
            )
        )

    def _rate_of(self, step: int) -> float:
        """The learning rate by which that step, the last one taken, has changed the parameters."""
        return 0.0 if self.stopped_after is not None else self._rate_after(step - 1)

    def _rate_after(self, steps: int, schedule: Callable | None = None) -> float:
        """The learning rate of the step after so many; those that were skipped do not count."""
        return float((schedule or self.learning_rate)(steps - self.skipping.total))

    def _film(self, step: int) -> None:
        if not self.history.film.wants():
            return
        with self.parallel.in_use():
            now = frame(self._model(), self.data.test)
        if now is not None:
            self.history.film.append(step, now)

    def _report_skipped(self, step: int, count: int) -> None:
        self.log.write("skipped", step, count=count, in_a_row=self.skipping.in_a_row)
        self.progress.message(
            f"{count} of the steps up to {step} changed nothing, since their loss or gradient was not finite;"
            f" {self.skipping.total} so far, and train.skip_nonfinite allows {self.skipping.allowed} in a row"
        )

    def _is_evaluated(self, epoch_end: int) -> bool:
        return epoch_end == self.steps or epoch_end // self.steps_per_epoch % self.config.train.evaluate_every == 0

    def _validate(self) -> float | None:
        """Evaluate on the validation examples; None if there are none."""
        if not rows(self.data.validation):
            return None
        result, step = self._evaluate(self.data.validation), int(self.state.step)
        beside = scores(result, self.data.validation, self.data)
        self.log.evaluation("validation", step, result, beside)
        self.log.tables("train", "validation")
        if self.config.train.activations:
            self._write_activations(result)
        self.progress.message(
            f"epoch {step // self.steps_per_epoch}: validation loss {result.loss:.4f}"
            f"  accuracy {result.accuracy:.2%}{in_words(beside)}  dropped {result.dropped.mean():.2%}"
            f"  ({self.log.seconds:.0f} s)"
        )
        return result.accuracy

    def _best_step(self) -> int:
        """The step of the best validation accuracy, the later one of two; UserError if its checkpoint is gone."""
        records = [record for record in self.folder.read_log() if record["kind"] == "validation"]
        best = max(records, key=lambda record: (record["accuracy"], record["step"]))["step"]
        if best not in self.checkpoints.steps():
            raise UserError(
                f"The checkpoint of the best epoch, {self.checkpoints.folder / str(best)}, is gone; set train.tested in"
                f" {self.folder.path / 'config.json'} to last and resume, or run again."
            )
        return best

    def _evaluate(self, examples: Examples, kinds: dict[str, Kinds] | None = None) -> Evaluation:
        with self.parallel.in_use():
            result = evaluate(self._model(), examples, self.config.train.evaluation_batch, kinds=kinds)
        if not np.isfinite([result.loss, result.gates.sum(), result.gate_entropy.sum()]).all():
            step = int(self.state.step)
            raise self._not_finite(f"After step {step} an evaluation's loss is not a finite number", step, until=step)
        return result

    def _not_finite(self, what: str, steps: int, *, until: int) -> UserError:
        """The sentences for what went wrong after so many steps, and was to be seen in those up to `until`."""
        learnt = steps > self.skipping.total and self._rate_after(steps - 1) > 0
        found = diagnosis.sentences(self, until)
        return not_finite(what, *found, config=self.config, learnt=learnt, kept=self.folder.path)

    def _model(self) -> nnx.Module:
        return self.parallel.place(averaged(self.state))

    def restore(self, step: int) -> TrainState:
        """The checkpoint of that step, whatever devices it was made on."""
        other = self.state._replace(optimizer=jax.eval_shape(self.other_optimizer.init, parameters(self.state.model)))
        saved = self.checkpoints.restore(step, self.state, self.parallel.shapes(other))
        saved = saved._replace(optimizer=relayout(saved.optimizer, self.state.optimizer))
        return self.parallel.place(saved)

    def _save(self, accuracy: float | None) -> None:
        if not all_finite(self.state):
            step = int(self.state.step)
            what = "numbers of the optimiser's state" if all_finite(self.state.model) else "parameters"
            raise self._not_finite(f"After step {step} not all {what} are finite", step, until=step)
        self.folder.check_there()
        routing = packed(self.history.to_arrays())
        self.folder.write(_ROUTING, routing)
        files = {
            IDENTITY: json.dumps(self.identity).encode(),
            metrics_log.NAME: (self.folder.path / metrics_log.NAME).read_bytes() if self.folder.writes else b"",
            _ROUTING: routing,
            **about.files(self.data),
        }
        self.checkpoints.save(self.state, accuracy, files)

    def _write_activations(self, result: Evaluation) -> None:
        epoch = int(self.state.step) // self.steps_per_epoch
        table = activations_table(
            result.gates[
                :, -gates_of_layer(self.config, self.data)
            ],  # of the last layer; where each task has a gate, the first task's
            of_first_task(np.asarray(self.data.validation["label"])),
            of_first_task(result.prediction),
            num_labels=self.data.num_classes,
            epoch=epoch,
            batch_size=self.config.train.evaluation_batch,
        )
        self.folder.write(f"activations/epoch_{epoch}.csv", table)
