"""What a figure shows in this run, in one sentence each: its caption, and what a picture is called that is not seen.

Each takes a record that has what the figure needs, and returns "" where nothing can be said.
"""

import math

import numpy as np

from moejax.report.map import two_directions
from moejax.report.record import Record, number, shares, text_shown

DEAD = 0.1  # of an equal share: an expert with less is as good as unused
ROSE = 1.05  # validation loss at the end over its lowest: it turned upwards
SETTLED = 0.9  # of the tokens
DECIDED, UNDECIDED = 0.5, 0.95  # of the highest entropy that there is


def curves(record: Record) -> str:
    """Whether validation turned upwards."""
    if not record.validation:
        return ""
    losses, steps = record.validation["loss"], record.validation["step"]
    if not np.isfinite(losses).any():
        return "No validation loss is a number."
    low = int(np.nanargmin(losses))
    unit, scale = (" nats", 1.0) if not record.is_text else (" bits", 1 / math.log(2))
    least, last = scale * losses[low], scale * losses[-1]
    if not math.isfinite(last):
        return f"The last validation loss is not a number; the lowest was {least:.3f}{unit}, at step {steps[low]:,.0f}."
    if last > ROSE * least:
        return (
            f"Validation was best at step {steps[low]:,.0f}, with {least:.3f}{unit}, and ends at {last:.3f}: it turned"
            " upwards."
        )
    return f"Validation ends at {last:.3f}{unit}, where it is lowest or close to it."


def loads(record: Record) -> np.ndarray:
    """The load of each expert at the end, in equal shares, [layer, expert]; of several gates to the same experts all
    count together.
    """
    last = record.routing["load"][-1] * record.routing["load"].shape[-1]
    return last.mean(0, keepdims=True) if record.layer == "multi_gate" else last


def load(record: Record) -> str:
    """The busiest and the idlest expert at the end."""
    last = loads(record)
    if not np.isfinite(last).all():
        return "The last loads are not numbers."
    if last.shape[1] == 1:
        return "There is one expert, which does all the work."
    busiest, idlest = (np.unravel_index(pick(last), last.shape) for pick in (np.argmax, np.argmin))
    dead = int((last < DEAD).sum())
    named = [f"expert {of[1]}" if record.layer == "multi_gate" else _expert(record, of) for of in (busiest, idlest)]
    sentence = (
        f"At the end the busiest expert, {named[0]}, has {last[busiest]:.2f} times an equal share, the idlest,"
        f" {named[1]}, {last[idlest]:.2f}"
    )
    if record.idle:
        return f"{sentence}; not all are meant to have the same."
    return f"{sentence}; {'none is dead' if not dead else '1 is dead' if dead == 1 else f'{dead} are dead'}."


def gate(record: Record) -> str:
    """Whether the gate decides, and what was dropped."""
    said = []
    if record.has("gate_entropy") and (record.experts or 1) > 1:
        last, most = record.routing["gate_entropy"][-1], math.log(record.experts or 1)
        if np.isfinite(last).all():
            verdict = "it tells tokens apart, and is not sure"
            if last.max() < DECIDED * most:
                verdict = "it decides"
            elif last.min() > UNDECIDED * most:
                verdict = "that is its ceiling: it tells hardly any two experts apart"
            elif last.max() > UNDECIDED * most:
                verdict = f"in {record.layer_name(int(last.argmax()))} it tells hardly any two experts apart"
            said.append(f"the gate's entropy ends at {_span(last)} of {most:.2f} nats: {verdict}")
    if record.has("dropped") and np.isfinite(record.routing["dropped"][-1]).all():
        last, tested = record.routing["dropped"][-1].mean(), number(record.summary.get("dropped"))
        on_test = f", {tested:.1%} on test" if math.isfinite(tested) else ""
        some = last > 0 or tested > 0
        said.append(
            f"{last:.1%} of the {record.droppable} are dropped at the end{on_test}" if some else "nothing is dropped"
        )
    return _sentence("; ".join(said))


def experts_by(record: Record) -> str:
    """How much position, content and label tell of the experts, in the first and the last layer."""
    known = [name for name in ("content", "label", "position") if record.has(f"experts_by_{name}")]
    layers = len(record.routing[f"experts_by_{known[0]}"])
    of_layers = []
    for layer in dict.fromkeys((0, layers - 1)):
        of_layer = {name: record.routing[f"experts_by_{name}"][layer] for name in known}
        told = [f"the {record.respect_name(name)} {share:.0%}" for name, share in of_layer.items() if share == share]
        if told:
            of_layers.append(f"in {record.layer_name(layer)} {_listed(told)}")
    return f"Of what decides a token's experts, {'; '.join(of_layers)}." if of_layers else ""


def positions(record: Record) -> str:
    """How sure an expert is of its places."""
    share = shares(record.routing["position_expert"])
    firsts = share.max(-1).mean(-1)
    most = int(firsts.argmax())
    return (
        f"In {record.layer_name(most)} a place's first expert has {firsts[most]:.0%} of it on average, where an equal"
        f" share is {1 / share.shape[-1]:.0%}."
    )


def tokens_map(record: Record) -> str:
    """How much of what the router sees lies in the map."""
    logits = record.routing["sample_logits"]
    shares = np.array([two_directions(logits[:, layer])[1] for layer in range(logits.shape[1])])
    return f"Two directions hold {_span(shares, '.0%')} of what the router sees of these tokens."


def labels(record: Record) -> str:
    """The label that leans most on one expert."""
    share = shares(record.routing["label_expert"])
    layer, label, expert = np.unravel_index(share.argmax(), share.shape)
    return (
        f"Label {record.label_name(label)}{_of_first_task(record)} leans most on one expert: {share.max():.0%} of it"
        f" goes to {_expert(record, (layer, expert))}; an equal share is {1 / share.shape[-1]:.0%}."
    )


def dispatch(record: Record) -> str:
    """Of how many tokens a slot is made."""
    parts = record.routing["sample_dispatch"].astype(np.float64)  # s layer token expert slot
    tokens = np.exp(-(parts * np.log(np.maximum(parts, 1e-30))).sum(2)).mean((0, 2, 3))
    return f"A slot is a mixture of about {_span(tokens, '.0f')} of an image's {parts.shape[2]} tokens."


def places(record: Record) -> str:
    """Who has most of the images shown."""
    share = shares(record.routing["sample_gate"].mean((0, 2)))  # layer expert
    most = np.unravel_index(share.argmax(), share.shape)
    return f"Of the images shown {_expert(record, most)} has most, {share[most]:.0%} of its layer's weight."


def film(record: Record) -> str:
    """Since when nine places or tokens in ten have the expert that they end with."""
    frames, steps = record.routing["film"], record.routing["film_step"]
    if len(frames) == 1:
        return ""
    same = (frames == frames[-1]).mean((1, 2, 3))
    settled = int(np.flatnonzero(same < SETTLED).max(initial=-1)) + 1
    if settled == len(frames) - 1:
        return f"A frame before the last one, {same[-2]:.0%} of the tokens have the expert that they end with."
    return f"From step {int(steps[settled]):,} on at least nine tokens in ten have the expert that they end with."


def computed(record: Record) -> str:
    """How many experts a token gets."""
    of_tokens = record.routing["sample_computed"].mean(0)  # layer token
    means = of_tokens.mean(-1)
    return (
        f"A token gets {_span(means)} experts on average; a place {of_tokens.min():.2f} at the least and"
        f" {of_tokens.max():.2f} at the most."
    )


def favourites(record: Record) -> str:
    """The largest share of an image."""
    share = np.nan_to_num(record.routing["top_share"])
    layer, expert, _ = np.unravel_index(share.argmax(), share.shape)
    return f"The largest share of an image is {share.max():.0%}, of {_expert(record, (layer, expert))}."


def confusion(record: Record) -> str:
    """The commonest mistake and the hardest label."""
    counts = record.routing["confusion"].astype(np.int64)
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return "Nothing is wrong."
    true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
    rates = wrong.sum(1) / np.maximum(counts.sum(1), 1)
    hardest = int(rates.argmax())
    return (
        f"Most often {record.label_name(true)}{_of_first_task(record)} is taken for {record.label_name(taken)},"
        f" {_times(int(wrong.max()))}; the hardest label is {record.label_name(hardest)}, with {rates[hardest]:.1%}"
        " wrong."
    )


def held_out(record: Record) -> str:
    """What the text shown cost."""
    bits = text_shown(record.routing["sample_nats"]) / math.log(2)
    if not np.isfinite(bits).any():
        return ""
    return f"A token of this text took {np.nanmean(bits):.2f} bits on average, the costliest {np.nanmax(bits):.1f}."


def likes(record: Record) -> str:
    """Who has most tokens, and how many experts have hardly any."""
    share = shares(np.nan_to_num(record.routing["content_expert"]).sum(1))  # layer expert
    idle = int((share * share.shape[-1] < DEAD).sum())
    most = np.unravel_index(share.argmax(), share.shape)
    rest = f"; {idle} have hardly any" if idle > 1 else "; 1 has hardly any" if idle else ""
    return f"{_sentence(_expert(record, most))[:-1]} has most tokens of all, {share[most]:.0%} of its layer's{rest}."


def _of_first_task(record: Record) -> str:
    """Whose labels these are where there are several tasks."""
    return f" of {next(iter(record.of_tasks))}, the first task," if len(record.of_tasks) > 1 else ""


def _expert(record: Record, index: tuple) -> str:
    """`expert 3 of Layer 1`."""
    layer, expert = index
    return f"expert {expert} of {record.layer_name(layer)}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _span(values: np.ndarray, form: str = ".2f") -> str:
    """`0.69`, or `0.55 to 0.69` of several layers."""
    low, high = (format(value, form) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
