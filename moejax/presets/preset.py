"""What a preset is."""

from dataclasses import dataclass

from moejax.config import Config


@dataclass(frozen=True)
class Preset:
    """A configuration and what to expect of it."""

    config: Config
    data: str
    time: str  # on two CPU cores, report included
    accuracy: str  # on the official test examples

    def __str__(self) -> str:
        return f"{self.data}; {self.time}; {self.accuracy}"
