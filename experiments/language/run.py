"""Do experts pay in a language model? Bits a byte on held-out sources of Python's library.

    python -m experiments language                              all of it, 3 seeds: 6 hours
    python -m experiments language --only experts --seeds 0     1 to 32 experts, one seed: 30 minutes

Times are for one CPU core. Each run is `python -m moejax.run` with the words that its row holds. Expect more experts of
as many FLOPs a token to be better, a choice of experts that is learnt to be better than a random one, and no gain where
the network is large and sees little text.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study import Row, Run, Study, by_layer, collect, fewer, log, parser_of
from moejax.models.decoder import flops_per_token
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation
from moejax.runs.folder import read_config


class Line(NamedTuple):
    """A line of the table: in which part it stands, what it is called, and what follows `python -m moejax.run`."""

    part: str
    name: str
    options: dict[str, Any]


def _top_2(experts: int, **options: Any) -> dict[str, Any]:
    return {"config": "text_sparse", "moe.num_experts": experts} | options


# Networks for which the text is the limit rather than their size: of 64 numbers with the text once, of 128 with a
# quarter of it.
_MEDIUM = {"model.width": 64, "model.heads": 4, "train.epochs": 1}
_LARGE = {"model.width": 128, "model.heads": 8, "model.depth": 4, "data.limit": 19_200, "train.epochs": 1}
_ONCE = {"train.epochs": 1}
LINES: dict[str, Line] = {
    "dense": Line("experts", "dense, equal FLOPs", {"config": "text_dense"}),
    "e4": Line("experts", "top-2 of 4", _top_2(4)),
    "e8": Line("experts", "top-2 of 8", _top_2(8)),
    "e16": Line("experts", "top-2 of 16", _top_2(16)),
    "e32": Line("experts", "top-2 of 32", _top_2(32)),
    "top1": Line("kinds", "top-1 of 16", _top_2(16, **{"moe.k": 1, "moe.hidden": 128, "moe.router": "switch"})),
    "fine": Line("kinds", "1 shared and top-3 of 32, fine-grained", {"config": "text_sigmoid", "data.limit": 76_800}),
    "wide": Line("kinds", "dense, equal parameters", {"config": "text_dense", "moe.hidden": 1024}),
    "random": Line("kinds", "top-2 of 16 at random", _top_2(16, **{"moe.router": "random"})),
    "hash": Line("kinds", "top-2 of 16 by the token's hash", _top_2(16, **{"moe.router": "hash"})),
    "unbalanced": Line("balance", "top-2 of 16, no balance", _top_2(16, **{"moe.balance_weight": 0})),
    "bias": Line("balance", "top-2 of 16, balance by a bias", _top_2(16, **{"moe.router": "sigmoid"})),
    # An expert is a copy of the dense layer, so that the dense network of the first half has half as wide a one.
    "half": Line(
        "upcycling", "dense, hidden width 64, the text once", {"config": "text_dense", "moe.hidden": 64} | _ONCE
    ),
    "upcycled": Line("upcycling", "top-2 of 16 from that one, the text once more", _top_2(16, upcycle="true") | _ONCE),
    "medium dense": Line("larger", "width 64: dense", {"config": "text_dense", "moe.hidden": 256} | _MEDIUM),
    "medium e16": Line("larger", "width 64: top-2 of 16", _top_2(16, **{"moe.hidden": 128}) | _MEDIUM),
    "large dense": Line("larger", "width 128: dense", {"config": "text_dense", "moe.hidden": 512} | _LARGE),
    "large e16": Line("larger", "width 128: top-2 of 16", _top_2(16, **{"moe.hidden": 256}) | _LARGE),
}
BYTES = 256
PARTS = tuple(dict.fromkeys(line.part for line in LINES.values()))
QUICK = ("dense", "e4")


def table(rows: list[Row]) -> str:
    """A line a network: means over its seeds."""
    header = ["network", "seeds", "bits a byte", "to dense", "parameters", "kFLOP/byte", "windows/s"]
    header += ["entropy, nats", "MaxVio", "token", "next", "position"]
    return markdown(header, [_line(name, rows) for name in LINES if any(row["line"] == name for row in rows)])


def _line(name: str, rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row["line"] == name]
    dense = {row["seed"]: row["test_bits_per_byte"] for row in rows if row["line"] == _compared_with(name)}
    gains = [row["test_bits_per_byte"] - dense[row["seed"]] for row in mine if row["seed"] in dense]
    routed = mine[0]["num_experts"] > 1
    return [
        LINES[name].name,
        str(len(mine)),
        mean_and_deviation([row["test_bits_per_byte"] for row in mine], "{:.3f}"),
        mean_and_deviation(gains, "{:.3f}") if gains and name != _compared_with(name) else "–",
        f"{mine[0]['parameters']:,}",
        f"{mine[0]['flops_per_byte'] / 1e3:.0f}",
        f"{max(row['examples_per_second'] for row in mine):.0f}",  # some ran beside other work
        by_layer([row["gate_entropy"] for row in mine]) if routed else "–",
        f"{statistics.mean(row['max_violation'] for row in mine):.2f}" if routed else "–",
        *(
            by_layer([row["experts_by"][of] for row in mine]) if routed else "–"
            for of in ("content", "label", "position")
        ),
    ]


def _compared_with(name: str) -> str:
    size, _, rest = name.partition(" ")
    return f"{size} dense" if rest else "dense"


def from_folder(folder: Path) -> Row:
    """What the loss was on the way."""
    config, records = read_config(folder), log(folder, "train")
    return {
        "num_experts": config.moe.num_experts,
        "flops_per_byte": flops_per_token(config, BYTES, keys=config.data.length),  # a window is computed whole
        "steps": [record["step"] for record in records],
        "losses": [round(record["loss"], 4) for record in records],  # nats a byte, means over so many steps
    }


def words(name: str, seed: int, runs: Path) -> list[str]:
    """What follows `python -m moejax.run`."""
    options = LINES[name].options | {"seed": seed}
    if name == "upcycled":
        options["init"] = runs / f"half-{seed}"
    return [word for option, value in options.items() for word in (f"--{option}", str(value))]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing, then draw."""
    parser = parser_of("language", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args(arguments)
    study = Study("language", table, asked.quick)
    smaller = [*fewer(320, 50), "--train.chunk", "5"] if asked.quick else []
    names = QUICK if asked.quick else [name for name in asked.lines if LINES[name].part in asked.only]
    runs = [
        Run({"line": name, "seed": seed}, [*words(name, seed, study.runs), *smaller])
        for seed in ([0] if asked.quick else asked.seeds)
        for name in names
    ]
    collect(study, runs, from_folder)
    from experiments.language.pictures import draw

    draw(study.rows, study.folder / "language.png")
    print(table(study.rows))
