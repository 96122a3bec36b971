"""Numbers that are not finite: spoilt at a drawn step, or by options of an extreme size. Named, skipped, never kept.

A spoilt step's loss or gradient is made infinite or NaN by the torture; all else is the ordinary command.
"""

import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moejax import metrics_log
from moejax.config import Config, flatten
from moejax.runs import checkpoint
from moejax.runs.folder import read_config
from moejax.training.loop import make_keys
from moejax.training.objective import Batch, Objective, StepMetrics
from moejax.training.parallel import Parallel
from tests.torture.figure import Figure
from tests.torture.small_runs import Said, image_words, say

SEED = 31
EXTREMES = (1e30, 1e-30)
STEPS = 8  # of two epochs
SPOILT = {  # by what is spoilt, what the sentence says of it
    "loss": "the loss (inf",
    "gradient": "the gradient of ",
}


def torture(quick: bool) -> Iterator[Figure]:
    """Spoilt steps, then options."""
    no_report = mock.patch("moejax.report.render", lambda run: run / "report.html")  # it only reads, and takes longest
    with tempfile.TemporaryDirectory(prefix="moejax-numbers-") as place, no_report:
        yield _spoilt(Path(place), 1 if quick else 10)
        yield _extreme(Path(place), quick)


def _spoilt(place: Path, each: int) -> Figure:
    """A run ends at a spoilt step, which it names; then it goes on by skipping that step alone."""
    draw, wrong = random.Random(SEED), 0
    cases = [(what, draw.randrange(1, STEPS + 1), draw.randrange(1, 5)) for what in SPOILT for _ in range(each)]
    for n, (what, step, chunk) in enumerate(cases):
        run = place / f"spoilt{n}"
        with _spoils(what, step - 1):
            ended = say("run", *image_words(place), "--train.chunk", chunk, "--out", run)
            named = f"Step {step} was the first where something was not finite: {SPOILT[what]}"
            kept = checkpoint.steps(run / "checkpoints")
            went_on = say("run", "--resume", run, "--train.skip_nonfinite", "1")
        problems = [
            *(["no sentence names the step"] if ended.code != 2 or named not in ended.err else []),
            *(["a checkpoint came after it"] if max(kept, default=0) >= step else []),
            *(_unsound(run, went_on) or _not_skipped(run, step)),
        ]
        wrong += _told(f"{what} spoilt at step {step}, chunks of {chunk}", problems, ended, went_on)
    found = (
        f"{wrong} wrong" if wrong else "the step named, nothing of it kept, that step alone skipped as the run went on"
    )
    return Figure("a step's loss or gradient spoilt", len(cases), found, not wrong)


def _extreme(place: Path, quick: bool) -> Figure:
    """Each option that is a number with a fraction, very large and very small."""
    say("run", *image_words(place), "--out", place / "plain")
    options = [name for name, value in flatten(read_config(place / "plain")).items() if isinstance(value, float)]
    cases = [(name, value) for name in options for value in EXTREMES]
    if quick:
        cases = random.Random(SEED).sample(cases, 3)
    found: Counter[str] = Counter()
    for name, value in cases:
        run = place / f"{name}{value:g}"
        said = say("run", *image_words(place), f"--{name}", f"{value:g}", "--out", run)
        end = "trained to finite numbers"
        if said.code == 2:
            end = "ended by sentences" if run.exists() else "refused before"
        problems = _unnamed(said, name) if said.code == 2 else _unsound(run, said)
        found["wrong" if _told(f"--{name} {value:g}", problems, said) else end] += 1
    said = ", ".join(f"{count} {end}" for end, count in found.items())
    return Figure("options that are numbers, at 1e30 and 1e-30", len(cases), said, not found["wrong"])


@contextlib.contextmanager
def _spoils(what: str, before: int) -> Iterator[None]:
    """Inside, the step of this process's runs that has so many before it has no finite loss, or gradient."""
    plain = Parallel.objective

    def objective(parallel: Parallel, config: Config) -> Objective:
        inner = plain(parallel, config)
        spoilt = jax.random.key_data(jax.random.fold_in(make_keys(config.seed).augment, before))

        def of_batch(model: Any, batch: Batch, key: Array) -> tuple[Array, StepMetrics]:
            bad = (jax.random.key_data(key) == spoilt).all()
            loss, metrics = inner(model, batch, key)
            if what == "gradient":
                return _spoilt_gradient(loss, bad), metrics
            return jnp.where(bad, jnp.inf, loss), metrics._replace(loss=jnp.where(bad, jnp.inf, metrics.loss))

        return of_batch

    with mock.patch.object(Parallel, "objective", objective):
        yield


@jax.custom_vjp
def _spoilt_gradient(loss: Array, bad: Array) -> Array:
    """The loss, whose gradient is NaN where it is `bad`."""
    return loss


_spoilt_gradient.defvjp(lambda loss, bad: (loss, bad), lambda bad, g: (jnp.where(bad, jnp.nan, g), None))


def _unsound(run: Path, said: Said) -> list[str]:
    """What is wrong about a run that was to end well."""
    if said.code:
        return [f"exit code {said.code}"]
    last = checkpoint.arrays(checkpoint.chosen(run.absolute() / "checkpoints", "last"))
    floats = [a for a in map(np.asarray, last.values()) if a.dtype.kind == "f"]
    kept = [] if all(np.isfinite(a).all() for a in floats) else ["a checkpoint has numbers that are not finite"]
    summary = (run / "summary.json").read_text(encoding="utf-8")
    return kept + [f"summary.json has {word}" for word in ("NaN", "Infinity") if word in summary]


def _not_skipped(run: Path, step: int) -> list[str]:
    lines, _ = metrics_log.read(run / metrics_log.NAME)
    skipped = [line for line in lines if line["kind"] == "skipped"]
    right = len(skipped) == 1 and skipped[0]["count"] == 1 and 0 <= skipped[0]["step"] - step < 5
    return [] if right else [f"skipped {skipped}"]


def _unnamed(said: Said, name: str) -> list[str]:
    """What is wrong about sentences on a run that an option has ended."""
    lines = [line for line in said.err.splitlines() if line.startswith("moejax: ")]
    return [] if any(name in line for line in lines) else [f"no sentence names {name}"]


def _told(case: str, problems: list[str], *said: Said) -> bool:
    """Whether there are problems; says so."""
    if problems:
        print(f"  {case}: {'; '.join(problems)}", *(each.err[-600:] for each in said), sep="\n    ", flush=True)
    return bool(problems)
