"""Which layer wins, dense, sparse or soft: as it was once compared, and at equal parameters and equal FLOPs?

    python -m experiments dense_sparse_soft --data.dir DIR                             all of it, five seeds: 6 hours
    python -m experiments dense_sparse_soft --data.dir DIR --only parameters FLOPs --data fashion_mnist --seeds 0

The second command takes 15 minutes on one CPU core. DIR holds mnist/ and fashion_mnist/; a data set that is not found
is left out. The README beside this file says what is compared.
"""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import Row, Run, Study, can_load, collect, fewer, log, million, parser_of
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

DATA = ("fashion_mnist", "mnist")
COMPARISONS = ("flat", "parameters", "FLOPs")
LAYERS = {"dense": "#3f6fd9", "sparse": "#d08c00", "random": "#b3bac4", "hash": "#667080", "soft": "#35994a"}
# The sparse layer whose router has nothing to learn: what the choice of experts itself is worth.
UNLEARNT = {"random": "sparse, routed at random", "hash": "sparse, routed by position"}
# Fashion-MNIST, best test accuracy of any epoch on 9,216 images.
ORIGINAL = {"dense": 88.55, "sparse": 85.79, "soft": 88.40}
# The experts' hidden width, and room in a sparse layer alike at training and test, at which an image costs 8.6 MFLOP,
# as in the dense layer, whose runs are those of equal parameters.
SAME_FLOPS = {
    "sparse": ("--moe.hidden", "160", "--moe.eval_capacity_factor", "1.25"),
    "soft": ("--moe.hidden", "512"),
}


def table(rows: list[Row]) -> str:
    """One line for each data set, comparison and layer: means over its seeds."""
    header = ["data", "comparison", "layer", "seeds", "test accuracy", "behind dense", "original"]
    header += ["parameters", "MFLOP/image", "training"]
    kinds = itertools.product(DATA, COMPARISONS, LAYERS)
    return markdown(header, [_line(*kind, rows) for kind in kinds if rows_of(*kind, rows)])


def rows_of(data: str, comparison: str, layer: str, rows: list[Row]) -> list[Row]:
    """The seeds of one line of the table."""
    if (comparison, layer) == ("FLOPs", "dense"):
        comparison = "parameters"
    return [r for r in rows if (r["data"], r["comparison"], r["layer"]) == (data, comparison, layer)]


def _line(data: str, comparison: str, layer: str, rows: list[Row]) -> list[str]:
    mine, dense = (rows_of(data, comparison, name, rows) for name in (layer, "dense"))
    known = comparison == "flat" and data == "fashion_mnist"
    return [
        data,
        comparison,
        UNLEARNT.get(layer, layer),
        str(len(mine)),
        mean_and_deviation([row["test_accuracy"] for row in mine], "{:.2f}%"),
        "–" if layer == "dense" else _behind(mine, dense),
        f"{ORIGINAL[layer]:.2f} %" if known and layer in ORIGINAL else "–",
        f"{mine[0]['parameters']:,}",
        million(mine[:1], "flops_per_example"),
        f"{statistics.median(row['curve'][-1][1] for row in mine):.0f} s",  # some runs were stopped for a while
    ]


def _behind(mine: list[Row], dense: list[Row]) -> str:
    """By how many points, seed by seed: the mean of the differences and its standard error."""
    of_seed = {row["seed"]: row["test_accuracy"] for row in dense}
    points = [100 * (of_seed[row["seed"]] - row["test_accuracy"]) for row in mine if row["seed"] in of_seed]
    if len(points) < 2:
        return "–"
    return f"{statistics.mean(points):.2f} ± {statistics.stdev(points) / len(points) ** 0.5:.2f}"


def from_folder(folder: Path) -> Row:
    """Epoch, seconds and validation accuracy after each epoch."""
    return {"curve": [[r["epoch"], r["seconds"], r["accuracy"]] for r in log(folder, "validation")]}


def draw(rows: list[Row], file: Path) -> None:
    """Validation accuracy against epochs and against seconds, the mean of the seeds over the range of them all."""
    measured = {(row["data"], row["comparison"]) for row in rows}
    kinds = [kind for kind in itertools.product(DATA, COMPARISONS) if kind in measured]
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    from experiments.curves import mean_and_range
    from moejax.report.style import DPI, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(kinds), 2, figsize=(9, 0.4 + 2.4 * len(kinds)), sharey="row", squeeze=False, layout="constrained"
        )
        for (data, comparison), (by_epoch, by_second) in zip(kinds, axes, strict=True):
            last = []
            for layer, colour in LAYERS.items():
                of_layer = [row["curve"] for row in rows_of(data, comparison, layer, rows)]
                if not of_layer:
                    continue
                curves = np.array(of_layer)  # seed, epoch, (epoch, seconds, accuracy)
                epochs, seconds, _ = np.median(curves, axis=0).T  # the mean would have those that were stopped
                for panel, x in ((by_epoch, epochs), (by_second, seconds)):
                    mean_and_range(panel, x, 100 * curves[..., 2].T, colour, label=UNLEARNT.get(layer, layer), lw=1.5)
                last += list(100 * curves[:, -1, 2])
            by_epoch.set(title=f"{data}, {comparison}", xlabel="epoch", ylabel="validation accuracy, %")
            by_epoch.set_ylim(min(last) - 3, max(last) + 0.5)
            by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True))
            by_second.set(xlabel="seconds, compilation included", xlim=(0, None))
            by_epoch.legend(frameon=False, loc="lower right")
        figure.savefig(file, dpi=DPI)
        plt.close(figure)


def words(data: str, comparison: str, layer: str, seed: int) -> list[str]:
    """What follows `python -m moejax.run`."""
    kind, router = ("sparse", ("--moe.router", layer)) if layer in UNLEARNT else (layer, ())
    preset = f"mnist_flat_{kind}" if comparison == "flat" else f"mnist_{kind}"
    # The definition's dispatch, whose FLOPs count: the preset's, which is faster, gives the same answers with fewer.
    dispatch = ("--moe.dispatch", "einsum") if kind == "sparse" and comparison != "flat" else ()
    widths = SAME_FLOPS[layer] if comparison == "FLOPs" else ()
    return ["--config", preset, "--data.name", data, "--seed", str(seed), *router, *dispatch, *widths]


def compared(comparison: str, layer: str) -> bool:
    """Whether there is a run of that layer: not where it would be another's, or where an image has one position."""
    if comparison == "FLOPs":
        return layer in SAME_FLOPS
    return comparison != "flat" or layer != "hash"


def main(arguments: Sequence[str]) -> None:
    """Run what is missing, then draw."""
    parser = parser_of("dense_sparse_soft", __doc__)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=COMPARISONS)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--data.dir", dest="folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args(arguments)
    study = Study("dense_sparse_soft", table, asked.quick)
    where = ["--data.dir", asked.folder] if asked.folder else []
    smaller = [*fewer(1024), "--train.epochs", "2", "--train.batch_size", "256"] if asked.quick else []
    seeds, comparisons = ([0], ["flat"]) if asked.quick else (asked.seeds, asked.only)
    sets = [data for data in (["mnist"] if asked.quick else asked.data) if can_load(data, data, dir=asked.folder)]
    collect(
        study,
        [
            Run(
                {"data": data, "comparison": comparison, "layer": layer, "seed": seed},
                [*words(data, comparison, layer, seed), *where, *smaller],
            )
            for seed in seeds
            for data in sets
            for comparison in comparisons
            for layer in asked.layers
            if compared(comparison, layer)
        ],
        from_folder,
    )
    if study.rows:
        draw(study.rows, study.folder / "accuracy.png")
    print(table(study.rows))
