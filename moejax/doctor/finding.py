"""What a doctor says."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing: its name, what it is here, and a sentence if something is amiss with it."""

    name: str
    value: str
    amiss: str = ""
