"""A run, complete: the values of every option that has an effect on it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializeAsAny

from moejax.config.training import ParallelOptions, TrainOptions
from moejax.errors import UserError
from moejax.files import abridged
from moejax.options import Options


def _of_a_folder(name: str) -> str:
    if name in ("", ".", "..") or len(name) > 100 or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(
            f"{abridged(repr(name))}; it is part of a folder's name: 1 to 100 printable characters, without slashes"
        )
    return name


class Config(Options):
    """One run: the same configuration on the same machine gives the same bits.

    `data`, `model` and `moe` hold the options of what their names choose (`moejax.config.schema`).
    """

    name: Annotated[
        str, AfterValidator(_of_a_folder), Field(description="What the run is called in its folder and report.")
    ] = "custom"
    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**32 - 1,
            description="Fixes the validation split, the first parameters, the order of examples and the augmentation.",
        ),
    ] = 0
    data: SerializeAsAny[Options]
    model: SerializeAsAny[Options]
    moe: SerializeAsAny[Options]
    train: TrainOptions
    parallel: ParallelOptions

    def replace(self, **values: Any) -> "Config":
        """The configuration with other values: `config.replace(seed=1, moe={"layer": "soft"})`.

        What a new choice has no option for is left out. Raises UserError with a sentence for each thing that is wrong.
        """
        return make_config(self, **values)


def make_config(base: Config | None = None, **values: Any) -> Config:
    """The configuration with such values by section, all others as `base` or the declarations have them.

        make_config(name="mine", moe={"layer": "soft", "slots": 2}, train={"epochs": 1})

    Raises UserError with a sentence for each thing that is wrong.
    """
    from moejax.config.build import configured  # it imports all that has options

    config, problems = configured(dotted(values), base)
    if problems:
        raise UserError(*problems)
    return config


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of sections by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat
