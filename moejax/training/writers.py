"""Where a run's metrics go beside metrics.jsonl: TensorBoard's files or Weights & Biases, by the option `log`.

A record of metrics.jsonl becomes numbers by name, such as `train/loss`, `validation/dropped/layer_0` and, of each
layer's load, the largest and the least as multiples of an equal share: `train/largest_load/layer_0`.
"""

import importlib.util
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moejax.config import Config, flatten
from moejax.errors import UserError

LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_PLACE = ("kind", "step", "seconds")  # of a record: no measurements


class Writer(ABC):
    """Something that takes records."""

    shown_by: str  # how to look at them

    @abstractmethod
    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record of metrics.jsonl."""

    @abstractmethod
    def close(self) -> None:
        """Have all of them written."""


def check(config: Config) -> None:
    """UserError if the library that `log` needs is not installed."""
    library = LIBRARIES.get(config.log or "")
    if library and importlib.util.find_spec(library) is None:
        raise UserError(
            f"log is {config.log}, but {library} is not installed; pip install 'moejax[{config.log}]', or leave --log"
            " out: metrics.jsonl is written anyway."
        )


def make_writer(config: Config, run: Path, step: int) -> Writer | None:
    """The writer that `log` names, for a run that has done so many steps; None if it names none."""
    check(config)
    if config.log == "tensorboard":
        return TensorBoard(run, step)
    return WeightsAndBiases(config, run) if config.log == "wandb" else None


class TensorBoard(Writer):
    """Event files in the run's folder `tensorboard/`; what was written of later steps than `step` counts no more."""

    def __init__(self, run: Path, step: int):
        from tensorboardX import SummaryWriter

        self.shown_by = f"tensorboard --logdir {run / 'tensorboard'}"
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: Mapping[str, Any]) -> None:
        """A point a number."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases(Writer):
    """A run of Weights & Biases, the same one when this run goes on; its files are in the folder `wandb/`.

    Where that library's own variables say so, such as WANDB_MODE=offline, it sends nothing.
    """

    def __init__(self, config: Config, run: Path):
        import wandb

        (run / "wandb").mkdir(exist_ok=True)
        file = run / "wandb" / "id"
        if not file.exists():
            file.write_text(secrets.token_hex(8), encoding="utf-8")
        project = os.environ.get("WANDB_PROJECT", "moejax")
        try:
            self._run = wandb.init(
                project=project,
                name=run.name,
                id=file.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(run),
                config=flatten(config),
            )
        except Exception as error:  # of whatever kind: no key, no network
            reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"log is wandb, which cannot begin: {reason}; log in by  wandb login, or set WANDB_MODE=offline."
            ) from None
        self._run.define_metric("*", step_metric="step")  # its own counter cannot go back, to the best epoch's test
        offline = f"wandb sync {run / 'wandb'}/offline-run-*"
        self.shown_by = getattr(self._run, "url", None) or offline

    def write(self, record: Mapping[str, Any]) -> None:
        """A row."""
        self._run.log({"step": record["step"], **scalars(record)})

    def close(self) -> None:
        """Send what is not sent yet."""
        self._run.finish()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """A record's numbers by name, the kind of record first."""
    values = {name: value for name, value in record.items() if name not in (*_PLACE, "load")}
    for layer, load in enumerate(record.get("load", ())):
        shares = np.asarray(load) * len(load)
        values |= {f"largest_load/layer_{layer}": float(shares.max()), f"least_load/layer_{layer}": float(shares.min())}
    return {f"{record['kind']}/{name}": value for name, value in _flat(values)}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, list):
            value = {f"layer_{layer}": of_layer for layer, of_layer in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat({f"{name}/{part}": of_part for part, of_part in value.items()})
        else:
            yield name, float(value)
