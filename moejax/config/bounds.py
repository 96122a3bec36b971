"""From where to where each number of a configuration makes sense, by its dotted name: one table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

_LARGE, _LEAST = 1e30, 1e-30  # float32 holds what lies between


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least and the greatest value; `below`: the greatest itself is too much already."""

    low: int | float
    high: int | float
    below: bool = False
    both: bool = False  # a sentence says both ends
    beyond: str = ""  # what is wrong with more, where it needs words

    def problem(self, name: str, value: int | float) -> str | None:
        """A sentence if the value lies outside."""
        said = abridged(value)
        if self.below and not self.low <= value < self.high:
            return f"{name} is {said}; it must be at least {self.low} and below {self.high}."
        if self.both and not self.low <= value <= self.high:
            return f"{name} is {said}; it must be from {self.low} to {self.high}."
        if value > self.high:
            if self.beyond:
                return f"{name} is {value:g}; {self.beyond}."
            return f"{name} is {said}; it must be at most {_text(self.high)}."
        if not value >= self.low:
            return f"{name} is {said}; it must {self._from(value)}."
        return None

    def _from(self, value: int | float) -> str:
        if self.low == 0:
            return "not be negative"
        return "be above 0" if self.low == _LEAST and not value > 0 else f"be at least {_text(self.low)}"


def _count(high: int) -> Bound:
    return Bound(1, high)


def _positive(high: int | float = _LARGE) -> Bound:
    return Bound(_LEAST, high)


def _weight(high: int | float = _LARGE, beyond: str = "") -> Bound:
    return Bound(0, high, beyond=beyond)


_SHARE = Bound(0, 1, below=True)

# Nobody needs more; what is allowed one by one may still be too much together, which the estimate of memory says.
BOUNDS: Mapping[str, Bound] = {
    "seed": Bound(0, 2**32 - 1, both=True),
    "data.validation": _weight(10**6),
    "data.limit": _count(10**9),
    "data.evaluation_limit": _count(10**9),
    "data.vocabulary": _count(10**6),
    "data.length": _count(4096),
    "model.stem": _count(2**14),
    "model.kernel": _count(9),  # a slice for each of its pixels, which takes minutes to compile beyond
    "model.stride": _count(14),  # pixels that the first stride leaves of it
    "model.width": _count(2**16),
    "model.depth": _count(64),
    "model.neighbours": _weight(9),
    "model.embedding": _count(2**14),
    "model.second_hidden": _count(2**20),
    "model.dropout": _SHARE,
    "model.heads": _count(1024),
    "model.moe_every": _count(64),
    "model.upcycling_noise": _weight(),
    "model.room": _count(2 * 4096),
    "model.forget_bias": Bound(-1000, 1000),
    "model.init_scale": _positive(),
    "moe.num_experts": _count(2**16),
    "moe.hidden": _count(2**20),
    "moe.k": _count(2**16),
    "moe.routed_scaling_factor": _positive(),
    "moe.bias_update_rate": _weight(),
    "moe.num_expert_groups": _count(2**16),
    "moe.topk_group": _count(2**16),
    "moe.jitter": _SHARE,
    "moe.capacity_factor": _positive(2**16),
    "moe.eval_capacity_factor": _positive(2**16),
    "moe.group_size": _count(2**24),
    "moe.shared": _weight(2**20),
    "moe.slots": _count(2**16),
    "moe.scale": _positive(),
    "moe.temperature": _positive(),
    "moe.final_temperature": _positive(),
    "moe.assignment_weight": _weight(),
    "moe.balance_weight": _weight(),
    "moe.z_weight": _weight(),
    "moe.importance_weight": _weight(),
    "moe.load_weight": _weight(),
    "moe.entropy_weight": _weight(),
    "moe.usage_weight": _weight(),
    "moe.l2_weight": _weight(),
    "train.epochs": _count(10**6),
    "train.batch_size": _count(10**6),
    "train.evaluation_batch": _count(10**6),
    "train.learning_rate": _positive(1e38),
    "train.router_learning_rate": _positive(1e38),
    "train.stop_rise": _positive(),
    "train.stop_below": _positive(),
    "train.evaluate_every": _count(10**6),
    "train.warmup": _SHARE,
    "train.weight_decay": _weight(),
    "train.clip_norm": _positive(),
    "train.average": _SHARE,
    "train.task_weight": _positive(),
    "train.label_smoothing": _SHARE,
    "train.consistency": _weight(),
    "train.shift": _weight(14, "beyond 14 pixels little is left of a 28 × 28 image"),
    "train.rotate": _weight(180, "180 degrees is half a turn, in either direction, and so every angle there is"),
    "train.zoom": _SHARE,
    "train.elastic": _weight(14, "beyond 14 pixels no stroke stays where it was in a 28 × 28 image"),
    "train.crop": _SHARE,
    "train.blur": _weight(14, "beyond 14 pixels a 3 × 3 window is all but even"),
    "train.chunk": _count(10**5),
    "parallel.data": _count(2**20),
    "parallel.expert": _count(2**20),
}


def out_of_bounds(values: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each field whose value lies outside, by the field's name; None is no value."""
    said = {name: bound.problem(name, values[name]) for name, bound in BOUNDS.items() if values[name] is not None}
    return {name: sentence for name, sentence in said.items() if sentence}


def abridged(value: Any) -> str:
    """A value as text, its beginning where it is long."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _text(number: int | float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
