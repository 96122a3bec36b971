"""How many experts, and how wide, should stand between two LSTMs that read MNIST row by row?

    python -m experiments lstm_moe                     the preset for 20 epochs, then all else: 5 hours
    python -m experiments lstm_moe --only preset       the preset alone: 42 minutes
    python -m experiments lstm_moe --only best         the best of ours, which reads rows from both ends: 55 minutes
    python -m experiments lstm_moe --only sweep --sweep-epochs 2    a shorter sweep: an hour

Times are for one CPU core that multiplies bfloat16. Expect 99.4 % of the test images from the preset, 99.2 to
99.4 % from the sweep, and 98.6 to 98.9 % of it after two epochs.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study import Row, Run, Study, collect, fewer, log, parser_of
from moejax.report.markdown import markdown

# (experts, hidden, blur, epochs): train and test accuracy in per cent, of augmented images and of 9,984.
ORIGINAL = {
    (5, 256, False, 10): (99.568, 99.16),
    (10, 256, False, 10): (99.564, 99.35),
    (20, 256, False, 10): (99.486, 99.14),
    (10, 512, False, 10): (99.534, 99.37),
    (10, 512, False, 20): (99.790, 99.28),
    (10, 512, True, 20): (99.735, 99.31),
}
# Cells that keep what they have at first, and twice as many steps: learns the augmented images a little faster.
FASTER = [
    *("--model.forget_bias", "1"),
    *("--train.batch_size", "128", "--train.learning_rate", "3.5e-3", "--train.chunk", "40"),
]
# Half the numbers of each LSTM read from below; what is evaluated is the parameters' mean over some 1,000 steps.
BOTH_ENDS = ["--model.bidirectional", "true", "--train.average", "0.999"]
AS_IN_THE_ORIGINAL = [
    *("--train.shift", "0", "--train.rotate", "0", "--train.zoom", "0", "--train.crop", "0.2"),
    *("--train.label_smoothing", "0"),
]
PARTS = ("preset", "best", "elastic", "sweep")


def table(rows: list[Row]) -> str:
    """One line a shape, its longest run, beside the original's of that shape (and as many epochs, if there is one)."""
    header = ["experts × hidden", "augmentation", "original: epochs", "train", "test", "ours: epochs"]
    header += ["train", "test", "parameters", "least load"]
    return markdown(header, [_line(row) for row in longest(rows)])


def longest(rows: list[Row]) -> list[Row]:
    """Of the runs of a shape, an augmentation and a seed the longest, in order."""
    return list({(*_place(row)[:4], row["seed"]): row for row in sorted(rows, key=_place)}.values())


def _place(row: Row) -> tuple:
    return row["augmentation"], row["hidden"], row["experts"], _both_ends(row), row["epochs"], row["seed"]


def _both_ends(row: Row) -> bool:
    """Whether its LSTMs read from both ends, which none of the original's does."""
    return row.get("both_ends", False)


def _shape(row: Row) -> str:
    return f"{row['experts']} × {row['hidden']}{', both ends' if _both_ends(row) else ''}"


def _line(row: Row) -> list[str]:
    shape = None if _both_ends(row) else (row["experts"], row["hidden"], "blur" in row["augmentation"])
    theirs = [(abs(key[3] - row["epochs"]), key[3], *value) for key, value in ORIGINAL.items() if key[:3] == shape]
    _, epochs, train, test = min(theirs) if theirs else (None, "–", None, None)
    return [
        *(_shape(row), row["augmentation"]),
        *(str(epochs), *("–" if value is None else f"{value:g} %" for value in (train, test))),
        *(str(row["epochs"]), f"{100 * row['train_curve'][-1]:.2f} %"),
        *(f"**{100 * row['test_accuracy']:.2f} %**", f"{row['parameters']:,}", f"{row['least_load']:.2f}"),
    ]


def curves(folder: Path) -> Row:
    """Accuracies by epoch, of augmented training images as they were learnt from and of the validation images."""
    train = log(folder, "train")
    step = np.array([0, *(r["step"] for r in train)])
    epoch = np.ceil([r["epoch"] - 1e-6 for r in train]).astype(int)
    right = np.diff(step) * [r["accuracy"] for r in train]
    by_epoch = [right[epoch == e].sum() / np.diff(step)[epoch == e].sum() for e in np.unique(epoch)]
    return {
        "train_curve": [round(float(a), 5) for a in by_epoch],
        "validation_curve": [round(record["accuracy"], 5) for record in log(folder, "validation")],
    }


def draw(rows: list[Row], file: Path) -> None:
    """Share of wrong answers by epoch, of training images on the left and of validation images on the right."""
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    from moejax.report.style import DPI, EXPERTS, INK, STYLE, entitle, panels

    colour = {5: EXPERTS[0], 10: EXPERTS[2], 20: EXPERTS[3]}
    titles = {"train": "Wrong, of training images as augmented", "validation": "Wrong, of validation images"}
    with rc_context(STYLE):
        shown = longest(rows)
        drawn = {name: title for name, title in titles.items() if any(row[f"{name}_curve"] for row in shown)}
        figure, axes = panels(
            len(drawn),
            len(drawn),
            3.2,
            "experts × hidden width, augmentation; runs on all 60,000 images have no validation",
        )
        for panel, (name, title) in zip(axes, drawn.items(), strict=True):
            panel.set_yscale("log")
            panel.set(title=title, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            for row in (row for row in shown if row[f"{name}_curve"]):
                wrong = 1 - np.array(row[f"{name}_curve"])
                last = row["augmentation"].partition("+")[2]  # what stands beside affine or crop, if anything does
                style = {"blur": ":", "elastic": "-."}.get(last, "--" if row["hidden"] == 256 else "-")
                style = (0, (6, 1, 1, 1, 1, 1)) if _both_ends(row) else style
                label = f"{_shape(row)}, {row['augmentation']}"
                line = {
                    "color": colour[row["experts"]] if "crop" in row["augmentation"] else INK,
                    "lw": 1.5,
                    "marker": "o",
                    "ms": 2.5,
                }
                panel.plot(np.arange(1, len(wrong) + 1), wrong, ls=style, **line, label=label)
        axes[0].legend(frameon=False, fontsize=8)
        entitle(figure, "LSTM with a mixture of experts: learning curves")
        figure.savefig(file, dpi=DPI)


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("lstm_moe", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sweep-epochs", type=int, default=10, help="epochs of each run of the sweep")
    asked = parser.parse_args(arguments)
    study = Study("lstm_moe", table, asked.quick)
    if asked.quick:
        runs = [_of_sweep(5, 256, "crop+blur", 2, *fewer(1024), "--model.width", "32")]
    else:
        of_part = {
            "preset": [_preset(20, "affine")],
            "best": [_preset(40, "affine", *FASTER, *BOTH_ENDS, both_ends=True)],
            "elastic": [_preset(20, "affine+elastic", *FASTER, "--train.elastic", "0.8")],
            "sweep": [
                *(_of_sweep(e, h, "crop", asked.sweep_epochs) for h, e in itertools.product((512, 256), (10, 5, 20))),
                _of_sweep(10, 512, "crop+blur", asked.sweep_epochs),
            ],
        }
        runs = [run for part in PARTS if part in asked.only for run in of_part[part]]
    collect(study, runs, curves)
    draw(study.rows, study.folder / "curves.png")
    print(table(study.rows))


def _preset(epochs: int, augmentation: str, *changes: str, **told: bool) -> Run:
    key = {"experts": 10, "hidden": 512, "epochs": epochs, "augmentation": augmentation, "seed": 0, **told}
    return Run(key, ["--config", "mnist_lstm", "--train.epochs", str(epochs), *changes])


def _of_sweep(experts: int, hidden: int, augmentation: str, epochs: int, *changes: str) -> Run:
    words = ["--config", "mnist_lstm", "--data.validation", "5000", "--train.epochs", str(epochs)]
    words += ["--moe.num_experts", str(experts), "--moe.hidden", str(hidden)]
    words += [*FASTER, *AS_IN_THE_ORIGINAL, *(["--train.blur", "2"] if "blur" in augmentation else []), *changes]
    key = {"experts": experts, "hidden": hidden, "epochs": epochs, "augmentation": augmentation, "seed": 0}
    return Run(key, words)
