"""A held-out text, its tokens coloured by their experts in each layer, or by what they cost.

A token is an element of classes: `a3 aw7` in the first layer expert 3 with 0.7 of the weight, `b…` in the second one;
`q5` five bits. Which of them gives the colour is a matter of the button that is pressed, so that no script is needed.
"""

import math
from html import escape
from string import ascii_lowercase

import numpy as np

from moejax.pieces import as_name, as_text, shown
from moejax.report.record import Record, text_shown
from moejax.report.style import spread
from moejax.report.switch import buttons, pressed

MOST_LAYERS = 8
_MOST_BITS = 10  # of full colour
_EACH = 4  # experts of a token that are named
_GROUP = "held-out-by"


def held_out(record: Record) -> str:
    """HTML of the text and the buttons above it."""
    layers, experts = _layers(record), record.experts or 1
    tokens, nats = (text_shown(record.routing[f"sample_{name}"]) for name in ("tokens", "nats"))
    gates, (windows, length) = record.routing["sample_gate"], tokens.shape
    parts = [piece_of(record, token) for token in tokens.ravel().tolist()]
    bits = (nats / math.log(2)).ravel().tolist()
    weights = np.moveaxis(np.abs(np.nan_to_num(gates[:windows, layers, :length])), 1, 2)
    weights = weights.reshape(len(parts), len(layers), gates.shape[-1])  # token, layer, expert
    names = [record.layer_name(layer) for layer in layers]
    elements = [
        _token(text, part, cost, n % length == 0, dict(zip(names, of_layers, strict=True)))
        for n, (text, part, cost, of_layers) in enumerate(zip(as_text(parts), parts, bits, weights, strict=True))
    ]
    key = "".join(f'<li><i style="--colour: var(--expert-{e})">{e}</i></li>' for e in range(experts)) if names else ""
    return (
        f'<div class="switch" role="group" aria-label="What colours the text">{buttons(_GROUP, [*names, "Bits"])}'
        f'<ul class="experts" aria-label="Experts by their colours">{key}</ul>'
        '<p class="how of-experts">The colour and the number below a token are those of the expert with most weight, '
        "paler where it has less. Point at a token, or tap it, for all of its experts and what it cost.</p>"
        '<p class="how of-bits">The number below a token is what it cost in bits, the more, the darker: 1 bit, the '
        "model gave it one chance in two; 5 bits, one in 32.</p>"
        '<p class="how">⏎ is the end of a line, ⇥ a tab, · a part of a letter, ■ the end of a file. A bar: a window '
        "begins, and nothing before it is seen.</p>"
        '<a class="skip" href="#after-held-out">Skip the tokens</a>'
        f'<div class="code" role="group" aria-label="Held-out text, by token">{"".join(elements)}</div></div>'
        '<span id="after-held-out"></span>'
    )


def style_of(record: Record) -> str:
    """CSS of the classes."""
    layers, experts = _layers(record), record.experts or 1
    rules = []
    for n, letter in enumerate(ascii_lowercase[: len(layers)]):
        of_layer = f"{pressed(_GROUP, n)}.code ."
        rules += [f'{of_layer}{letter}{e}{{--colour:var(--expert-{e});--n:"{e}"}}' for e in range(experts)]
        rules += [f"{of_layer}{letter}w{tenth}{{--much:{10 * tenth}%}}" for tenth in range(1, 11)]
    by_bits = pressed(_GROUP, len(layers))
    rules += [f'{by_bits}.code .q{bits}{{--much:{10 * bits}%;--n:"{bits}"}}' for bits in range(_MOST_BITS + 1)]
    rules += [f"{by_bits}.code i{{--colour:var(--accent)}}", f"{by_bits}:is(.experts,.of-experts){{display:none}}"]
    rules += [f"{pressed(_GROUP, n)}.of-bits{{display:none}}" for n in range(len(layers))]
    return "\n".join(rules)


def piece_of(record: Record, token: int) -> bytes:
    """The bytes of a token; its number in angles where they are not known."""
    return record.pieces[token] if token < len(record.pieces) else f"⟨{token}⟩".encode()


def _layers(record: Record) -> list[int]:
    """Those that have a button: none where there is nothing to choose from."""
    gates = record.routing["sample_gate"]
    return spread(gates.shape[1], MOST_LAYERS).tolist() if gates.shape[-1] > 1 else []


def _token(text: str, piece: bytes, bits: float, first: bool, layers: dict[str, np.ndarray]) -> str:
    """An element of the text; `first` of a window; `layers`: the weights of the experts, by the layer's name."""
    known = math.isfinite(bits)
    cost = f"{bits:.2f} bits, foretold with {2.0**-bits:.1%}" if known else "first of its window: not foretold"
    classes = [f"q{min(round(bits), _MOST_BITS)}"] if known else []
    classes += ["first"] if first else []
    said = [f"<b>{escape(as_name(piece))}</b> {cost}"]
    for letter, (name, weights) in zip(ascii_lowercase, layers.items(), strict=False):
        order = [int(e) for e in np.argsort(-weights, kind="stable")[:_EACH] if weights[e] > 0]
        if order:
            classes += [f"{letter}{order[0]}", f"{letter}w{max(1, min(round(10 * weights[order[0]]), 10))}"]
        experts = ", ".join(f"expert {e} {weights[e]:.2f}" for e in order) or "no expert took it"
        said.append(f"{escape(name)}: {experts}")
    return f'<i class="{" ".join(classes)}" tabindex="0">{seen(text)}<span>{"<br>".join(said)}</span></i>'


def seen(text: str, *, keep: bool = True) -> str:
    """HTML of a piece of text with signs for what cannot be seen, and the ends of lines and tabs behind theirs."""
    return "".join(
        escape(letter) if letter.isprintable() else f"<s>{escape(shown(letter))}</s>{_KEPT.get(letter, '') * keep}"
        for letter in text
    )


_KEPT = {"\n": "\n", "\0": "\n", "\t": "\t"}  # what stands behind a sign
