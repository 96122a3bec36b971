"""Do dense, sparse and soft learn MNIST equally well, and what does each cost?

    python -m experiments mnist_presets                                      all but the longer one, seed 0: 6 minutes
    python -m experiments mnist_presets --presets mnist_best --seeds 0 1 2   the longer preset: 3 hours

Times are for two CPU cores. Each run is `python -m moejax.run --config PRESET --seed N`; the sparse one also with
routers that learn nothing, to see what the choice of experts is worth.
"""

import statistics
from collections.abc import Sequence

from experiments.study import Row, Run, Study, by_layer, collect, fewer, million, parser_of
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

DEFAULT = ("mnist_dense", "mnist_sparse", "mnist_soft")
# Beside the presets: names of rows, the preset that each is of, and the words that it adds.
UNLEARNT = {f"mnist_sparse_{router}": ("mnist_sparse", ["--moe.router", router]) for router in ("random", "hash")}


def table(rows: list[Row]) -> str:
    """One line a preset: means over its seeds."""
    header = ["preset", "seeds", "test accuracy", "parameters", "MFLOP/image", "examples/s", "command"]
    header += ["dropped", "least load", "MaxVio", "entropy"]
    return markdown(header, [_line(preset, rows) for preset in _presets(rows)])


def _presets(rows: list[Row]) -> list[str]:
    there = dict.fromkeys(row["preset"] for row in rows)
    return [preset for preset in dict.fromkeys([*DEFAULT, *UNLEARNT, *there]) if preset in there]


def _line(preset: str, rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row["preset"] == preset]

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in mine)

    name, words = UNLEARNT.get(preset, (preset, []))
    return [
        f"`{' '.join([name, *words])}`",
        str(len(mine)),
        mean_and_deviation([row["test_accuracy"] for row in mine], "{:.2f}%"),
        f"{mean('parameters'):,.0f}",
        million(mine, "flops_per_example"),
        f"{mean('examples_per_second'):,.0f}",
        f"{mean('seconds'):.0f} s",
        f"{mean('dropped'):.2%}",
        f"{mean('least_load'):.2f}",
        f"{mean('max_violation'):.2f}" if all("max_violation" in row for row in mine) else "–",
        by_layer([row["gate_entropy"] for row in mine if "gate_entropy" in row]),
    ]


def words(preset: str) -> list[str]:
    """What follows `python -m moejax.run`."""
    name, more = UNLEARNT.get(preset, (preset, []))
    return ["--config", name, *more]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("mnist_presets", __doc__)
    parser.add_argument("--presets", nargs="+", help="default: those of the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.parse_args(arguments)
    study = Study("mnist_presets", table, asked.quick)
    smaller = [*fewer(512), "--train.epochs", "1"] if asked.quick else []
    collect(
        study,
        [
            Run({"preset": preset, "seed": seed}, [*words(preset), "--seed", str(seed), *smaller])
            for preset in asked.presets or (DEFAULT if asked.quick else (*DEFAULT, *UNLEARNT))
            for seed in asked.seeds
        ],
    )
    print(table(study.rows))
