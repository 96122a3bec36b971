"""Do experts help a pre-trained encoder to tell paraphrases? MiniLM on MRPC, upcycled and as it is.

    python -m experiments mrpc_minilm                         both models, seeds 0 1 2: 85 minutes
    python -m experiments mrpc_minilm --models moe --seeds 0  one run: 15 minutes

Times are for one CPU core that multiplies bfloat16. The first run fetches MiniLM (83 MB). Expect 80 to 83 % on dev, a
point or two less on test, and no difference between the two models beyond that between seeds.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments.mrpc_scores import dev, f1_of_majority
from experiments.study import Row, Run, Study, collect, fewer, log, parser_of
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

MODELS = {
    "moe": ("MiniLM, 2 of 6 layers upcycled to 4 experts, top-2", []),
    "dense": ("MiniLM without MoE", ["--moe.num_experts", "1", "--moe.k", "1"]),
}

ORIGINAL = ["*the original's best*", "", "", "", "66.6 %", "", "", ""]


def table(rows: list[Row]) -> str:
    """One line a model: means over its seeds, between the majority class and the original."""
    header = ["model", "seeds", "dev accuracy", "dev F1", "test accuracy", "test F1", "least load", "minutes a seed"]
    lines = [_line(name, [row for row in rows if row["model"] == name]) for name in MODELS]
    majority = [_majority(rows)] if rows else []
    return markdown(header, [*majority, ORIGINAL, *(line for line in lines if line)])


def _line(name: str, mine: list[Row]) -> list[str]:
    if not mine:
        return []
    return [
        MODELS[name][0],
        str(len(mine)),
        *(mean_and_deviation([row[column] for row in mine], "{:.1f}%") for column in ("dev_accuracy", "dev_f1")),
        *(mean_and_deviation([row[column] for row in mine], "{:.1f}%") for column in ("test_accuracy", "test_f1")),
        f"{statistics.mean(row['least_load'] for row in mine):.2f}",
        f"{statistics.mean(row['seconds'] for row in mine) / 60:.1f}",
    ]


def _majority(rows: list[Row]) -> list[str]:
    shares = [rows[0]["dev_majority"], rows[0]["majority"]]
    figures = [f"{100 * figure:.1f} %" for share in shares for figure in (share, f1_of_majority(share))]
    return ["*always paraphrase*", "", *figures, "", ""]


def measured(folder: Path) -> Row:
    """The dev scores of the state that was tested, and the accuracy after every epoch."""
    return {**dev(folder), "dev_by_epoch": [r["accuracy"] for r in log(folder, "validation")]}


def draw(rows: list[Row], path: Path) -> None:
    """Dev accuracy over the epochs, and test accuracy of every seed beside the majority answer."""
    from matplotlib import rc_context

    from moejax.report.style import DPI, EXPERTS, MUTED, PERCENT, STYLE, entitle, panels

    titles = {"moe": "with experts", "dense": "without"}
    with rc_context(STYLE):
        figure, (learning, tested) = panels(2, 2, 2.7, "lines and points: seeds; bars: their means")
        entitle(figure, "MiniLM on MRPC, with and without experts")
        for place, name in enumerate(MODELS):
            mine, colour = [row for row in rows if row["model"] == name], EXPERTS[place]
            for i, row in enumerate(mine):
                epochs = range(1, len(row["dev_by_epoch"]) + 1)
                learning.plot(epochs, row["dev_by_epoch"], color=colour, lw=1.2, label=titles[name] if i == 0 else None)
            scores = [row["test_accuracy"] for row in mine]
            tested.plot([place] * len(scores), scores, "o", ms=5, mec="white", color=colour, zorder=3)
            if scores:
                tested.hlines(statistics.mean(scores), place - 0.25, place + 0.25, color=colour, lw=2)
        for axes, share, split in ((learning, rows[0]["dev_majority"], "dev"), (tested, rows[0]["majority"], "test")):
            axes.axhline(share, color=MUTED, lw=1, ls=":")
            text = {"xy": (0.99, share), "xycoords": ("axes fraction", "data"), "ha": "right", "size": 8}
            offset = {"xytext": (0, 3), "textcoords": "offset points", "color": MUTED}
            axes.annotate("always paraphrase", **text, **offset)
            axes.set(ylabel=f"{split} accuracy", ylim=(0.64, 0.9))
            axes.yaxis.set_major_formatter(PERCENT)
        learning.set(title="Learning", xlabel="epoch")
        learning.xaxis.get_major_locator().set_params(integer=True)
        learning.legend(loc="lower right", frameon=False, labelcolor="linecolor", bbox_to_anchor=(1, 0.22))
        tested.set(title="Test", xlim=(-0.6, len(MODELS) - 0.4))
        tested.set_xticks(range(len(MODELS)), list(titles.values()))
        figure.savefig(path, dpi=DPI)


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("mrpc_minilm", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args(arguments)
    study = Study("mrpc_minilm", table, asked.quick)
    # Programs of bfloat16 take longest to compile.
    smaller = [*fewer(64, evaluated=32), "--train.epochs", "1", "--model.depth", "1", "--train.dtype", "float32"]
    seeds = asked.seeds[:1] if asked.quick else asked.seeds
    collect(
        study,
        [
            Run(
                {"model": model, "seed": seed},
                ["--config", "mrpc_minilm", "--seed", str(seed), *MODELS[model][1], *(smaller if asked.quick else [])],
            )
            for seed in seeds
            for model in (asked.models[:1] if asked.quick else asked.models)
        ],
        also=measured,
    )
    draw(study.rows, study.folder / "accuracy.png")
    print(table(study.rows))
