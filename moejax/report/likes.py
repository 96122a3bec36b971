"""What each expert likes: the tokens of which it takes most beyond what it takes of all, and those that follow them."""

from html import escape
from typing import NamedTuple

import numpy as np

from moejax.pieces import as_name
from moejax.report.held_out import MOST_LAYERS, piece_of
from moejax.report.record import Record
from moejax.report.style import spread
from moejax.report.switch import buttons, pressed

_GROUP = "likes-of"
_FEWEST, _PART = 20, 1e-3  # times that a token must be there, and part of all
_LEAST = 1.25  # lift that is worth a word
_MOST = 8  # tokens of an expert


class Liked(NamedTuple):
    """A token that an expert takes more of than usual."""

    token: int
    lift: float  # its share among the token's choices, against its share overall
    share: float  # of the token's choices, 0 to 1


def likes(record: Record) -> str:
    """HTML of a table for each layer."""
    tables = {name: np.nan_to_num(record.routing[f"{name}_expert"]) for name in ("content", "label")}
    layers = spread(len(tables["content"]), MOST_LAYERS)
    fewest = max(fewest_of(tables["content"][layer]) for layer in layers)
    names = [record.layer_name(layer) for layer in layers]
    panels = "".join(
        f'<div><table class="likes"><caption>{escape(name)}</caption><thead><tr><th scope="col">Expert</th>'
        '<th scope="col">Its tokens</th><th scope="col">The next tokens</th></tr></thead><tbody>'
        f"{_rows(record, *(table[layer] for table in tables.values()))}</tbody></table></div>"
        for name, layer in zip(names, layers, strict=True)
    )
    return (
        f'<div class="switch" role="group" aria-label="Layer of the table">{buttons(_GROUP, names)}'
        '<p class="how">␣×3: of all blanks the expert takes three times the share that it has of all tokens, which '
        f"stands beside its number. Tokens seen less than {fewest:,.0f} times are left out, and lifts below "
        f"{_LEAST}.</p>"
        f'<div class="panels">{panels}</div></div>'
    )


def style_of(record: Record) -> str:
    """CSS that shows one table at a time."""
    count = min(len(record.routing["content_expert"]), MOST_LAYERS)
    turns = (f"{pressed(_GROUP, n)}.panels>:nth-child({n + 1}){{display:block}}" for n in range(count))
    return "\n".join(["@media screen{.panels>*{display:none}}", *turns])


def lift(table: np.ndarray) -> np.ndarray:
    """float [kind, expert] of shares summed → the same: each expert's share of a kind over its share of all.

    1 where a kind goes where all go; 0 for kinds and experts that there are none of.
    """
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    return np.divide(table * table.sum(), expected, out=np.zeros(table.shape), where=expected > 0)


def fewest_of(table: np.ndarray) -> float:
    """How often a kind must be there to be told of."""
    return float(max(_FEWEST, _PART * table.sum()))


def liked(table: np.ndarray) -> list[list[Liked]]:
    """For each expert the kinds of highest lift, of those that are there often enough; the more frequent first."""
    counts = table.sum(1)
    lifts = np.where((counts >= fewest_of(table))[:, None], lift(table.astype(np.float64)), 0.0)
    found = []
    for e in range(table.shape[1]):
        order = np.lexsort((-counts, -lifts[:, e].round(2)))[:_MOST]
        best = (Liked(int(y), float(lifts[y, e]), float(table[y, e] / max(counts[y], 1e-12))) for y in order)
        found.append([one for one in best if one.lift >= _LEAST])
    return found


def _rows(record: Record, of_tokens: np.ndarray, of_next: np.ndarray) -> str:
    load = of_tokens.sum(0) / max(of_tokens.sum(), 1e-12)
    return "".join(
        f'<tr><th scope="row"><i style="--colour: var(--expert-{e})">{e}</i> {load[e]:.1%}</th>'
        f"<td>{_pieces(record, own)}</td><td>{_pieces(record, after)}</td></tr>"
        for e, (own, after) in enumerate(zip(liked(of_tokens), liked(of_next), strict=True))
    )


def _pieces(record: Record, found: list[Liked]) -> str:
    if not found:
        return '<span class="absent">none beyond the usual</span>'
    return " ".join(
        f'<span class="piece" title="{one.share:.0%} of it"><b>{escape(as_name(piece_of(record, one.token)))}</b>'
        f"×{one.lift:.3g}</span>"
        for one in found
    )
