"""What the experts of a language model do, in sentences."""

import math

import numpy as np

from moejax.report.record import Record, number


def in_words(record: Record) -> list[str]:
    """Of text and several experts, what the run recorded of its test; else nothing."""
    if not record.is_text or (record.experts or 1) < 2:
        return []
    return [sentence for sentence in (_go_by(record), _decided(record), _balanced(record)) if sentence]


def _go_by(record: Record) -> str:
    """How much the token, the next token and the position tell of the experts, in the first and the last layer."""
    known = [name for name in ("content", "label", "position") if record.has(f"experts_by_{name}")]
    if not known:
        return ""
    layers = len(record.routing[f"experts_by_{known[0]}"])
    of_layers = []
    for layer in dict.fromkeys((0, layers - 1)):
        shares = [
            f"the {record.respect_name(name)} {record.routing[f'experts_by_{name}'][layer]:.0%}" for name in known
        ]
        of_layers.append(f"in {record.layer_name(layer).lower()} {_listed(shares)}")
    return f"Of what decides a token's experts, {'; '.join(of_layers)}."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _decided(record: Record) -> str:
    """Between which bounds the gates' entropy lies."""
    found = record.summary.get("gate_entropy")
    layers = [number(value) for value in found] if isinstance(found, list) else []
    if not layers or not np.isfinite(layers).all():
        return ""
    most = math.log(record.experts or 1)
    least, largest = min(layers), max(layers)
    span = f"{least:.2f}" if least == largest else f"{least:.2f} to {largest:.2f}"
    return f"The gate's entropy is {span} nats, of {most:.2f} if it told no two experts apart."


def _balanced(record: Record) -> str:
    """The busiest expert, the idle ones and what was dropped."""
    violation, dead, dropped = (number(record.summary.get(key)) for key in ("max_violation", "dead_experts", "dropped"))
    said = []
    if math.isfinite(violation):
        said.append(f"the busiest expert has {1 + violation:.2f} times an equal share (MaxVio {violation:.2f})")
    if math.isfinite(dead):
        said.append(f"{dead:.0f} of the experts are dead" if dead else "none is dead")
    if math.isfinite(dropped):
        said.append(f"{dropped:.1%} of the choices were dropped" if dropped else "nothing was dropped")
    sentence = _listed(said) if said else ""
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""
