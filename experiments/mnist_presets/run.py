"""Do dense, sparse and soft learn MNIST equally well, and what does each cost?

    python -m experiments mnist_presets                                      three presets, seed 0: 4 minutes
    python -m experiments mnist_presets --presets mnist_best --seeds 0 1 2   the longer preset: 3 hours

Times are for two CPU cores. Each run is `python -m moejax.run --config PRESET --seed N`.
"""

import statistics
from collections.abc import Sequence

from experiments.study import Row, Run, Study, collect, fewer, million, parser_of, spread
from moejax.report.markdown import markdown


def table(rows: list[Row]) -> str:
    """One line a preset: means over its seeds."""
    header = ["preset", "seeds", "test accuracy", "parameters", "MFLOP/image", "examples/s", "command"]
    return markdown([*header, "dropped", "least load"], [_line(preset, rows) for preset in _presets(rows)])


def _presets(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["preset"] for row in rows))


def _line(preset: str, rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row["preset"] == preset]

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in mine)

    return [
        f"`{preset}`",
        str(len(mine)),
        spread([row["test_accuracy"] for row in mine], "{:.2f}%"),
        f"{mean('parameters'):,.0f}",
        million(mine, "flops_per_example"),
        f"{mean('examples_per_second'):,.0f}",
        f"{mean('seconds'):.0f} s",
        f"{mean('dropped'):.2%}",
        f"{mean('least_load'):.2f}",
    ]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("mnist_presets", __doc__)
    parser.add_argument("--presets", nargs="+", default=["mnist_dense", "mnist_sparse", "mnist_soft"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.parse_args(arguments)
    study = Study("mnist_presets", table, asked.quick)
    smaller = [*fewer(512), "--train.epochs", "1"] if asked.quick else []
    collect(
        study,
        [
            Run({"preset": preset, "seed": seed}, ["--config", preset, "--seed", str(seed), *smaller])
            for preset in asked.presets
            for seed in asked.seeds
        ],
    )
    print(table(study.rows))
