"""One network at several settings: sparse layers with another k or capacity factor, the parameters the same."""

from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from moejax.config import Config
from moejax.errors import UserError
from moejax.routers import ROUTERS
from moejax.routers.router import all_experts
from moejax.runs.model import Model
from moejax.runs.opening import alone, under

MOST = 8  # settings whose programs are kept
_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, None)  # that a page offers; None: nothing is dropped
_MOST_K = 16


class Setting(NamedTuple):
    """What can be changed of sparse layers; the capacity factor is that of evaluation, None: nothing is dropped."""

    k: int
    capacity_factor: float | None


class Variants:
    """A model by its settings, each compiled once; when there are too many, all are forgotten.

    Attributes:
      own: the setting that the model is loaded with; None if its layers are not sparse.
    """

    def __init__(self, model: Model):
        self.own = _own(model.config)
        self._model, self._known = model, {self.own: model}
        _warm(model)

    def __call__(self, setting: Setting | None) -> Model:
        """The model at that setting; UserError, in one sentence, for one that its layers cannot have."""
        if setting not in self._known:
            made = _changed(self._model, setting)
            if len(self._known) == MOST:
                self._known = {self.own: self._model}
                jax.clear_caches()
                _warm(self._model)
            _warm(made)
            self._known[setting] = made
        return self._known[setting]

    @cached_property
    def offered(self) -> dict[str, Any]:
        """For each thing that can be changed its own value, and the values that a page may offer."""
        if self.own is None:
            return {}
        config, own = self._model.config, self.own
        values: dict[str, list] = {}
        if not _aims_at_k(config):
            ks = range(1, min(_MOST_K, all_experts(config.moe)) + 1)
            values["k"] = sorted({own.k, *(k for k in ks if _can_be(config, own._replace(k=k)))})
        values["capacity_factor"] = [
            f for f in _FACTORS if f == own.capacity_factor or _can_be(config, own._replace(capacity_factor=f))
        ]
        if own.capacity_factor not in values["capacity_factor"]:
            values["capacity_factor"].insert(0, own.capacity_factor)
        return {name: {"value": getattr(own, name), "values": of_one} for name, of_one in values.items()}


def _own(config: Config) -> Setting | None:
    if config.moe.layer != "sparse":
        return None
    moe = alone(config).moe
    return Setting(moe.k, None if moe.dispatch == "grouped" else moe.eval_capacity_factor)


def _aims_at_k(config: Config) -> bool:
    return ROUTERS[config.moe.router].aims_at_k


def _config(config: Config, setting: Setting) -> Config:
    """`grouped` has no slots, so that a capacity needs another dispatch, of which the answers are the same."""
    options: dict[str, Any] = {"k": setting.k, "eval_capacity_factor": setting.capacity_factor}
    if setting.capacity_factor is not None and config.moe.dispatch == "grouped":
        options["dispatch"] = "gather"
    return alone(config).replace(moe=options)


def _can_be(config: Config, setting: Setting) -> bool:
    try:
        _config(config, setting)
    except UserError:
        return False
    return True


def _changed(model: Model, setting: Setting | None) -> Model:
    if setting is None or _own(model.config) is None:
        raise UserError("k and capacity_factor are for sparse layers, which this run has not; leave them out.")
    if setting.k != model.config.moe.k and _aims_at_k(model.config):
        raise UserError(
            f"k is {setting.k}, but the router {model.config.moe.router} learnt how many to take; leave it out."
        )
    return under(_config(model.config, setting), model)


def _warm(model: Model) -> None:
    """Compile for one example, so that no answer waits for it."""
    names, about = model.read.names, model.about
    model.answer({name: np.zeros((1, *about.shapes[name]), about.dtypes[name]) for name in names})
