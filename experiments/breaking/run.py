"""How does a layer that is broken on purpose show it?

    python -m experiments breaking            two sound runs and five broken ones: 4 minutes

Times are for two CPU cores. Each run is `python -m moejax.run` with the words of `LINES`, one epoch of MNIST or all of
the synthetic clusters, whose report says at its head what ails it. Expect that accuracy says little of it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.study import Row, Run, Study, by_layer, collect, fewer, parser_of, summary
from moejax.report.ailments import ailments
from moejax.report.markdown import markdown
from moejax.report.record import read

MNIST = ("--config", "mnist_sparse", "--train.epochs", "1")
CLUSTERS = ("--config", "clusters_moe_nonlinear")
ALONE = ("--moe.router", "switch", "--moe.k", "1", "--moe.balance_weight", "0", "--moe.entropy_weight", "0.1")
QUARTER = ("--moe.capacity_factor", "0.25", "--moe.eval_capacity_factor", "0.25")
# By name: what is broken, the words of the run, and the figure of its report to look at.
LINES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "sound": ("nothing", MNIST, "load"),
    "no_balance": ("no balance loss", (*MNIST, "--moe.balance_weight", "0"), "load"),
    "hot_expert": ("one hot expert: a router that has to decide, unbalanced", (*MNIST, *ALONE), "load"),
    "few_slots": ("a quarter of the slots", (*MNIST, *QUARTER), "gate"),
    "bfloat16": ("in bfloat16, without a z-loss, as all of these", (*MNIST, "--train.dtype", "bfloat16"), "gate"),
    "noise": ("nothing: a router with noise, clusters", CLUSTERS, "load"),
    "no_noise": ("no noise", (*CLUSTERS, "--moe.router", "switch"), "load"),
}
QUICK = ("hot_expert",)


def table(rows: list[Row]) -> str:
    """One line a run."""
    header = ["broken", "test accuracy", "MaxVio", "dead", "dropped", "entropy", "what its report says"]
    return markdown(header, [_line(row) for name in LINES for row in rows if row["line"] == name])


def _line(row: Row) -> list[str]:
    return [
        LINES[row["line"]][0],
        f"{row['test_accuracy']:.2%}",
        f"{row['max_violation']:.2f}",
        str(row["dead_experts"]),
        f"{row['dropped']:.1%}",
        by_layer([row["gate_entropy"]]),
        " ".join(sentence.partition(". ")[0].rstrip(".") + "." for sentence in row["ailments"]),
    ]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("breaking", __doc__)
    asked = parser.parse_args(arguments)
    study = Study("breaking", table, asked.quick)

    def from_folder(folder: Path) -> Row:
        """What ails it; its figure goes beside the table."""
        name = folder.name.rpartition("-")[0]
        shutil.copy(folder / "figures" / f"{LINES[name][2]}.png", study.folder / f"{name}.png")
        found = summary(folder)
        return {"dead_experts": found["dead_experts"], "ailments": ailments(read(folder))}

    smaller = [*fewer(512), "--train.epochs", "1"] if asked.quick else []
    runs = [
        Run({"line": name, "seed": 0}, [*LINES[name][1], "--seed", "0", *smaller])
        for name in (QUICK if asked.quick else LINES)
    ]
    collect(study, runs, from_folder)
    print(table(study.rows))
