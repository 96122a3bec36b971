"""What ails a run, in sentences at the head of its page: each names what to look at, and an option to change."""

import math

import numpy as np

from moejax.report.findings import DEAD, ROSE, UNDECIDED, loads
from moejax.report.record import Record, number

DROPPED, DROPPED_ON_TEST = 0.2, 0.02  # of all choices; a training step may drop some to be of one size
OVERLOADED = 3.0  # times an equal share
BY_POSITION = 0.9  # of what decides the expert
LEARNS_NOTHING = ("hash", "random")  # routers whose probabilities say nothing
HEALTHY = "Nothing ails: no expert is dead or overloaded, the gate tells tokens apart, and little is dropped."


def ailments(record: Record) -> list[str]:
    """A sentence each, one where nothing ails; none of one expert, or where nothing was recorded."""
    if (record.experts or 1) < 2 or not record.has("load"):
        return []
    ends = [record.routing["load"][-1], *(record.validation["loss"][-1:] if record.validation else [])]
    if not all(np.isfinite(end).all() for end in ends):
        return ["The last loads or losses are not finite numbers: the run has diverged. Lower train.learning_rate."]
    found = [sentence for check in _CHECKS if (sentence := check(record))]
    return found or [HEALTHY]


def _load(record: Record) -> str:
    """Dead or overloaded experts; where some compute nothing, all are not meant to have the same."""
    last = loads(record)[:, : record.computing]
    dead, highest = int((last < DEAD).sum()), float(last.max())
    if highest > OVERLOADED and not record.idle:
        other = record.layer == "sparse" and record.option("moe", "router") != "sigmoid"
        rest = f", and {dead} of {last.size} experts are dead" if dead else ""
        return (
            f"The router has collapsed: one expert has {highest:.1f} times an equal share{rest}."
            f" Raise {_evening(record)}{', or use moe.router sigmoid' * other}."
        )
    if dead:
        which = "1 expert is" if dead == 1 else f"{dead} experts are"
        return (
            f"{which} dead, with less than a tenth of an equal share. Raise {_evening(record)}, or use fewer experts."
        )
    return ""


def _evening(record: Record) -> str:
    """The option that evens the load."""
    return "moe.balance_weight" if record.layer == "sparse" else "moe.usage_weight"


def _entropy(record: Record) -> str:
    if not record.has("gate_entropy") or record.option("moe", "router") in LEARNS_NOTHING:
        return ""
    last, most = record.routing["gate_entropy"][-1], math.log(record.experts or 1)
    undecided = [record.layer_name(layer) for layer in np.flatnonzero(last > UNDECIDED * most)]
    if not undecided:
        return ""
    where = "in all layers" if len(undecided) == len(last) > 1 else f"in {', '.join(undecided)}"
    lower = ", or lower moe.z_weight and moe.balance_weight" if record.layer == "sparse" else ""
    return (
        f"The gate's entropy is at its ceiling {where}: it tells hardly any two experts apart. Raise"
        f" moe.entropy_weight{lower}."
    )


def _dropped(record: Record) -> str:
    last = float(record.routing["dropped"][-1].mean()) if record.has("dropped") else 0.0
    tested = number(record.summary.get("dropped"))
    if record.droppable == "tokens":
        none = f"{tested:.0%} of the tokens are taken by no expert on test. Raise moe.eval_capacity_factor."
        return none if tested > DROPPED else ""
    if tested > DROPPED_ON_TEST:
        return (
            f"{tested:.0%} of the choices are dropped on test. Raise moe.eval_capacity_factor, or use moe.dispatch"
            " grouped, which drops nothing."
        )
    if last > DROPPED:
        return (
            f"{last:.0%} of the choices are dropped in training. Raise moe.capacity_factor, or use moe.dispatch"
            " grouped, which drops nothing."
        )
    return ""


def _position(record: Record) -> str:
    if not record.has("experts_by_position") or record.option("moe", "router") in LEARNS_NOTHING:
        return ""
    shares = record.routing["experts_by_position"]
    fixed = [record.layer_name(layer) for layer in np.flatnonzero(shares > BY_POSITION)]
    if not fixed:
        return ""
    compare = " (compare with moe.router hash)" if record.layer == "sparse" else ""
    return (
        f"In {', '.join(fixed)} the experts go by the token's place alone: a fixed table of places would route as"
        f" well{compare}."
    )


def _validation(record: Record) -> str:
    losses = record.validation["loss"] if record.validation else np.full(1, math.nan)
    if not np.isfinite(losses).any() or not losses[-1] > ROSE * np.nanmin(losses):
        return ""
    step = record.validation["step"][int(np.nanargmin(losses))]
    best = record.option("train", "tested") == "best"
    return (
        f"Validation was best at step {step:,.0f} and turned upwards. Use {'' if best else 'train.tested best, '}fewer"
        " train.epochs, or more dropout."
    )


_CHECKS = (_load, _entropy, _dropped, _position, _validation)
