"""What must not change when a run is resumed: its configuration and its data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moejax.config import Config, flatten
from moejax.config.schema import everything
from moejax.data.dataset import Dataset, digest
from moejax.errors import UserError

# The devices, the places of the data, which state is tested at the end, what is skipped, and where metrics go as well.
_MAY_CHANGE = ("parallel.", "data.dir", "data.source", "train.tested", "train.skip_nonfinite", "log")
_DEFAULT = "its default"
_TOLD = 5  # so many changed options are told each by a sentence
EPOCHS = "train.epochs"  # may change too, but has to be known: the schedule goes by it


def identity(config: Config, data: Dataset) -> dict[str, Any]:
    """The configuration's fields by name and a digest of each split, for JSON."""
    fields = {name: value for name, value in flatten(config).items() if not name.startswith(_MAY_CHANGE)}
    return {"config": fields, "data": [digest(split) for split in (data.train, data.validation, data.test)]}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """UserError if the run in the folder `run` was begun with another configuration or other data."""
    then, fields = before["config"], now["config"]
    names = [name for name in sorted((then.keys() | fields.keys()) - {EPOCHS}) if _differ(then, fields, name)]
    changed = [
        f"{name} is {fields.get(name, _DEFAULT)}, but the checkpoints of {run} were made with"
        f" {then.get(name, _DEFAULT)}; set it back in {run / 'config.json'}, or start another run."
        for name in names
    ]
    if len(names) > _TOLD:
        changed = [
            f"The checkpoints of {run} are those of another run: {len(names)} options are not those of"
            f" {run / 'config.json'}, among them {', '.join(names[:_TOLD])}; put its own back, or start another run."
        ]
    if not changed and before["data"] != now["data"]:
        changed = [
            f"The examples are not those that the checkpoints of {run} learnt from; give it the same data again."
        ]
    if changed:
        raise UserError(*changed)


def other_epochs(now: int, before: int, rate: float, old: float) -> str:
    """The sentence on a run that has another number of epochs than before, and on its learning rate."""
    return (
        f"train.epochs is {now} and was {before}: from here on the learning rate, and whatever else goes by the share"
        f" of training that is done, is that of a run of train.epochs {now}; the rate is {rate:.2g} and would have been"
        f" {old:.2g}."
    )


def _differ(then: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> bool:
    if name in then and name in fields:
        return then[name] != fields[name]
    # What only one of them has, as versions of moejax differ, is at its default in the other one.
    defaults = [field.default for field in everything().get(name, {}).values()]
    return bool(defaults) and (then | fields)[name] not in defaults
