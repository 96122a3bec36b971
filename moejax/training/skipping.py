"""Steps that change nothing, since their loss or gradient is not finite: how many there were, and may be in a row."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxtyping import Bool
from numpy import ndarray


class Skipping:
    """Counts a run's steps that were skipped.

    Attributes:
      allowed: how many may follow each other (`train.skip_nonfinite`).
      total: of all steps so far.
      in_a_row: of the last steps.
    """

    def __init__(self, allowed: int):
        self.allowed, self.total, self.in_a_row = allowed, 0, 0

    def go_on(self, records: Iterable[Mapping[str, Any]], step: int) -> None:
        """Count as a run did that has these records of metrics.jsonl up to `step`."""
        skipped = [record for record in records if record["kind"] == "skipped"]
        self.total = sum(record["count"] for record in skipped)
        self.in_a_row = skipped[-1]["in_a_row"] if skipped and skipped[-1]["step"] == step else 0

    def too_many(self, step: int) -> str:
        """What to say of the step that is one too many."""
        if not self.allowed:
            return f"The loss is not a finite number from step {step} on"
        return (
            f"At step {step} the loss or its gradient is not a finite number: {self.in_a_row} steps in a row, of which"
            f" train.skip_nonfinite allows {self.allowed}"
        )

    def see(self, good: Bool[ndarray, " n"]) -> int | None:
        """Count the next n steps, `good` where all was finite; the first that is one too many, from 0, if one is."""
        for n, finite in enumerate(good):
            self.in_a_row = 0 if finite else self.in_a_row + 1
            if self.in_a_row > self.allowed:
                return n
            self.total += not finite
        return None
