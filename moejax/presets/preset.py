"""What a preset is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moejax.config import Config


@dataclass(frozen=True)
class Preset:
    """A configuration and what to expect of it."""

    values: dict[str, Any]  # of the options, by section; all others have their defaults
    data: str
    time: str  # on two CPU cores, report included
    accuracy: str  # on the official test examples

    @property
    def config(self) -> "Config":
        """The configuration; making one imports all that has options."""
        from moejax.config import make_config

        return make_config(**self.values)

    def __str__(self) -> str:
        return f"{self.data}; {self.time}; {self.accuracy}"
