"""Made-up sentence pairs in the manner of MRPC, for a run without its files: learnable, and not MRPC.

A sentence tells who did what, how much and when. A paraphrase says the same with synonyms, other word order or a
detail left out; a near miss changes the person, the verb, the amount or the day and is otherwise told as freely. So
many words in common mean little: what counts is whether those that differ are synonyms.
"""

import numpy as np

from moejax.data.dataset import Examples
from moejax.data.pair_table import of_columns

NOTE = "These sentence pairs are made up, not MRPC: results say nothing about MRPC."

_NAMES = [f"{a}{b}" for a in ("Al", "Ber", "Cor", "Dan", "El", "Far", "Gil", "Hol") for b in ("den", "ton", "mann")]
_VERBS = [  # each line: ways to say one thing
    ("bought", "acquired", "took over"),
    ("sold", "disposed of", "parted with"),
    ("praised", "commended", "spoke well of"),
    ("sued", "took to court", "filed suit against"),
    ("warned", "cautioned", "gave warning to"),
    ("joined", "became part of", "signed up with"),
]
_THINGS = [
    ("the company", "the firm"),
    ("the newspaper", "the daily"),
    ("the hospital", "the clinic"),
    ("the shop", "the store"),
    ("the club", "the team"),
    ("the school", "the academy"),
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
_ENDS = ["", "", " , a spokesman said", " , according to a report", " , witnesses said"]
_PARAPHRASES = 2 / 3  # about MRPC's share


def make(counts: dict[str, int]) -> tuple[dict[str, Examples], str]:
    """Splits of so many pairs and their origin; the same on every machine and for every seed of a run."""
    splits = {}
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([20051014, number])
        pairs = [_pair(rng) for _ in range(count)]
        splits[split] = of_columns(*(list(column) for column in zip(*pairs, strict=True)))
    return splits, "made on the spot"


def _pair(rng: np.random.Generator) -> tuple[str, str, int]:
    paraphrase = rng.random() < _PARAPHRASES
    sizes = (len(_NAMES), len(_VERBS), len(_THINGS), 90, len(_DAYS))
    said = [int(rng.integers(size)) for size in sizes]
    meant = list(said)
    if not paraphrase:
        changed = rng.choice([0, 1, 3, 4])
        meant[changed] = (said[changed] + int(rng.integers(1, sizes[changed]))) % sizes[changed]
    return _tell(rng, said), _tell(rng, meant), int(paraphrase)


def _tell(rng: np.random.Generator, fact: list[int]) -> str:
    name, verb, thing, amount, day = fact

    def one_of(ways):
        return ways[int(rng.integers(len(ways)))]

    who, did, what = _NAMES[name], one_of(_VERBS[verb]), one_of(_THINGS[thing])
    price, when, end = f"for $ {amount + 10} million", f"on {_DAYS[day]}", one_of(_ENDS)
    order = one_of(
        ["{when} {who} {did} {what} {price}", "{who} {did} {what} {price} {when}", "{price} {who} {did} {what} {when}"]
    )
    told = order.format(who=who, did=did, what=what, price=price, when=when)
    return f"{told[0].upper()}{told[1:]}{end} ."
