"""What makes a router decide, and over which tokens should it balance?

    python -m experiments deciding            `mnist_sparse` with five sets of losses, 5 seeds: 32 minutes

Times are for two CPU cores. Each run is `python -m moejax.run --config mnist_sparse --seed N` with the words that
`LINES` adds. Expect accuracies within a tenth of a point, entropies near ln 8 = 2.08 nats without the entropy loss and
about 1 or less with it, and the least information on labels where each image is balanced by itself.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.deciding.pictures import draw
from experiments.study import Row, Run, Study, by_layer, collect, fewer, parser_of
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

_FOUR_PARTS = ("--train.gradient_accumulation_steps", "4")
# By name: what the table says of it, and the words that it adds.
LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "layer's own": (
        "the layer's own: balance .01, z .001",
        ("--moe.entropy_weight", "0", "--moe.z_weight", "0.001", "--moe.balance_weight", "0.01"),
    ),
    "preset": ("the preset's: balance .02, entropy .005", ()),
    "sequence": ("… balance over each image", ("--moe.balance_over", "sequence")),
    "micro-batch": ("… over each of 4 micro-batches", ("--moe.balance_over", "micro_batch", *_FOUR_PARTS)),
    "four parts": ("… over 4 micro-batches together", _FOUR_PARTS),
}
QUICK = ("layer's own", "preset")


def table(rows: list[Row]) -> str:
    """One line a set of losses: means over its seeds."""
    header = ["losses", "seeds", "test accuracy", "entropy, nats", "MaxVio", "dropped", "position", "content", "label"]
    return markdown(header, [_line(name, rows) for name in LINES if any(row["line"] == name for row in rows)])


def _line(name: str, rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row["line"] == name]

    return [
        LINES[name][0],
        str(len(mine)),
        mean_and_deviation([row["test_accuracy"] for row in mine], "{:.2f}%"),
        by_layer([row["gate_entropy"] for row in mine]),
        f"{statistics.mean(row['max_violation'] for row in mine):.2f}",
        f"{statistics.mean(row['dropped'] for row in mine):.2%}",
        *(by_layer([row["experts_by"][of] for row in mine], "{:.3f}") for of in ("position", "content", "label")),
    ]


def from_folder(folder: Path) -> Row:
    """How the router came to decide, or not: entropies in training, and in the end the larger of a token's weights."""
    with np.load(folder / "routing.npz") as arrays:
        every = max(1, len(arrays["step"]) // 60)
        larger = arrays["sample_gate"].max(-1)  # of two shares of a token's output: from a half to all
        shares = [np.histogram(larger[:, layer], 20, (0.5, 1.0))[0] / larger[:, layer].size for layer in (0, 1)]
        return {
            "steps": arrays["step"][::every].tolist(),
            "entropies": arrays["gate_entropy"][::every].round(3).tolist(),
            "larger_share": np.round(shares, 4).tolist(),
        }


def main(arguments: Sequence[str]) -> None:
    """Run what is missing, then draw."""
    parser = parser_of("deciding", __doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    asked = parser.parse_args(arguments)
    study = Study("deciding", table, asked.quick)
    smaller = [*fewer(512), "--train.epochs", "1"] if asked.quick else []
    collect(
        study,
        [
            Run(
                {"line": name, "seed": seed},
                ["--config", "mnist_sparse", "--seed", str(seed), *LINES[name][1], *smaller],
            )
            for name in (QUICK if asked.quick else LINES)
            for seed in (asked.seeds[:1] if asked.quick else asked.seeds)
        ],
        from_folder,
    )
    draw(study.rows, study.folder / "decides.png")
    print(table(study.rows))
