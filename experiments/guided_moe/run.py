"""Does guiding experts by labels make each of them the expert of a label, and what does it cost in accuracy?

    python -m experiments guided_moe            five seeds of both, guided also with 4 and 12 experts: 20 minutes
    python -m experiments guided_moe --seeds 0  one seed of each: 5 minutes

Times are for two CPU cores. Each run is `python -m moejax.run --config PRESET --seed N`. Expect a little more
accuracy of the guided one, and of it alone a gate whose diagonal (the share of a label's own expert in the output for
its images) is near 1.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import Row, Run, Study, collect, fewer, log, parser_of
from moejax.metrics import label_information
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation
from moejax.routing import assigned_experts

ORIGINAL = {"mnist_base": ("97.18 %", "diffuse"), "mnist_guided": ("97.22 %", "0.895")}


def table(rows: list[Row]) -> str:
    """One line for each preset and number of experts: means over its seeds."""
    header = ["preset", "experts", "seeds", "test accuracy", "original", "gate diagonal", "original", "NMI"]
    kinds = list(dict.fromkeys((row["preset"], row["experts"]) for row in rows))
    return markdown([*header, "least used expert", "seconds"], [_line(*kind, rows) for kind in kinds])


def _line(preset: str, experts: int, rows: list[Row]) -> list[str]:
    mine = [row for row in rows if (row["preset"], row["experts"]) == (preset, experts)]
    accuracy, diagonal = ORIGINAL[preset] if experts == 10 else ("–", "–")
    return [
        f"`{preset}`",
        str(experts),
        str(len(mine)),
        mean_and_deviation([row["test_accuracy"] for row in mine], "{:.2f}%"),
        accuracy,
        mean_and_deviation([row["diagonal"] for row in mine], "{:.3f}"),
        diagonal,
        mean_and_deviation([row["nmi"] for row in mine], "{:.3f}"),
        mean_and_deviation([row["least_load"] for row in mine], "{:.2f}"),
        f"{statistics.mean(row['seconds'] for row in mine):.0f}",
    ]


def from_folder(folder: Path) -> Row:
    """The gate over the whole test set, and the validation accuracy after each epoch."""
    with np.load(folder / "routing.npz") as arrays:
        shares = arrays["label_expert"][0]  # label, expert: sums of the gates
    own = assigned_experts(*shares.shape)
    of_label = shares / shares.sum(1, keepdims=True)
    return {
        "diagonal": float(of_label[np.arange(len(own)), own].mean()),
        "nmi": float(label_information(shares)),
        "validation_accuracy": [record["accuracy"] for record in log(folder, "validation")],
    }


def main(arguments: Sequence[str]) -> None:
    """Run what is missing, then draw."""
    parser = parser_of("guided_moe", __doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--experts", nargs="+", type=int, default=[10, 4, 12])
    asked = parser.parse_args(arguments)
    study = Study("guided_moe", table, asked.quick)
    seeds = [0] if asked.quick else asked.seeds
    numbers = [10] if asked.quick else asked.experts
    kinds = [("mnist_guided", e) for e in numbers] + [("mnist_base", e) for e in numbers if e == 10]
    kinds.sort(key=lambda kind: numbers.index(kind[1]))
    smaller = [*fewer(1000), "--train.epochs", "2"] if asked.quick else []
    runs = [
        Run(
            {"preset": preset, "experts": experts, "seed": seed},
            ["--config", preset, "--seed", str(seed), "--moe.num_experts", str(experts), *smaller],
        )
        for preset, experts in kinds
        for seed in seeds
    ]
    collect(study, runs, from_folder)
    from experiments.guided_moe.pictures import draw

    for run in runs:
        folder = study.runs / "-".join(map(str, run.key.values()))
        if run.key["seed"] == seeds[0] and run.key["experts"] == 10 and (folder / "activations").exists():
            draw(folder, study.folder / f"{run.key['preset']}.png")
    print(table(study.rows))
