"""How many experts, and how wide, should stand between two LSTMs that read MNIST row by row?

    python experiments/lstm_moe.py                     the preset for 20 epochs, then the sweep for 10 epochs each
    python experiments/lstm_moe.py --only-preset       the preset alone
    python experiments/lstm_moe.py --sweep-epochs 4    a shorter sweep

The original is a PyTorch notebook: LSTM, noisy top-2 MoE at every row, LSTM. The preset `mnist_lstm` is its best form
(10 experts of hidden width 512) with our augmentation and schedule, trained on all 60,000 images: 99.5 % of the 10,000
test images is what to expect, against 99.37 % of 9,984. The sweep, experts {5, 10, 20} × hidden {256, 512} and one run
with blur, holds 5,000 of them back for the validation curve; expect differences of about 0.1 points, as between two
seeds of one run. On two CPU cores with bfloat16 units to itself, an epoch takes about a minute; without them about two.
"""

import itertools
import json
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from study import Row, Run, Study, arguments, collect, markdown

from moejax.report.style import DPI, EXPERTS, STYLE, entitle, panels

# (experts, hidden, blur, epochs): train and test accuracy in per cent, of augmented images and of 9,984.
ORIGINAL = {
    (5, 256, False, 10): (99.568, 99.16),
    (10, 256, False, 10): (99.564, 99.35),
    (20, 256, False, 10): (99.486, 99.14),
    (10, 512, False, 10): (99.534, 99.37),
    (10, 512, False, 20): (99.790, 99.28),
    (10, 512, True, 20): (99.735, 99.31),
}


def table(rows: list[Row]) -> str:
    """One line a run, the original's run of that shape (and as many epochs, if there is one) beside it."""
    header = ["experts", "hidden", "blur", "original: epochs", "train", "test", "ours: epochs", "images", "train"]
    header += ["test", "parameters", "examples/s", "time", "least load"]
    return markdown(header, [_line(row) for row in sorted(rows, key=_place)])


def _place(row: Row) -> tuple:
    return row["blur"], row["hidden"], row["experts"], row["epochs"], row["seed"]


def _line(row: Row) -> list[str]:
    shape = row["experts"], row["hidden"], row["blur"]
    theirs = sorted(
        (abs(key[3] - row["epochs"]), key[3], *value) for key, value in ORIGINAL.items() if key[:3] == shape
    )
    _, epochs, train, test = theirs[0] if theirs else (None, "–", None, None)
    return [
        *(str(row["experts"]), str(row["hidden"]), "yes" if row["blur"] else "no"),
        *(str(epochs), *(f"{value:.2f} %" if theirs else "–" for value in (train, test))),
        *(str(row["epochs"]), f"{row['train_examples']:,}", f"{row['train_curve'][-1]:.2%}".replace("%", " %")),
        *(f"**{row['test_accuracy']:.2%}**".replace("%", " %"), f"{row['parameters']:,}"),
        *(f"{row['examples_per_second']:,.0f}", f"{row['seconds'] / 60:.0f} min", f"{row['least_load']:.2f}"),
    ]


def curves(folder: Path) -> Row:
    """Accuracies by epoch, of augmented training images as they were learnt from and of the validation images."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    step = np.array([0, *(r["step"] for r in train)])
    epoch = np.ceil([r["epoch"] - 1e-6 for r in train]).astype(int)
    right = np.diff(step) * [r["accuracy"] for r in train]
    by_epoch = [right[epoch == e].sum() / np.diff(step)[epoch == e].sum() for e in np.unique(epoch)]
    validation = [r["accuracy"] for r in records if r["kind"] == "validation"]
    return {
        "train_curve": [round(float(a), 5) for a in by_epoch],
        "validation_curve": [round(a, 5) for a in validation],
    }


def draw(rows: list[Row], file: Path) -> None:
    """Share of wrong answers by epoch, of training images on the left and of validation images on the right."""
    colour = {5: EXPERTS[0], 10: EXPERTS[2], 20: EXPERTS[3]}
    titles = {"train": "Wrong, of training images as augmented", "validation": "Wrong, of validation images"}
    with rc_context(STYLE):
        figure, axes = panels(2, 2, 3.2, "experts × hidden width; runs on all 60,000 images have no validation")
        for panel, (name, title) in zip(axes, titles.items(), strict=True):
            panel.set_yscale("log")
            panel.set(title=title, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            for row in (row for row in sorted(rows, key=_place) if row[f"{name}_curve"]):
                wrong = 1 - np.array(row[f"{name}_curve"])
                style = ":" if row["blur"] else "--" if row["hidden"] == 256 else "-"
                label = f"{row['experts']} × {row['hidden']}{', blur' if row['blur'] else ''}, {row['epochs']} epochs"
                line = {"color": colour[row["experts"]], "lw": 1.5, "marker": "o", "ms": 2.5}
                panel.plot(np.arange(1, len(wrong) + 1), wrong, style, **line, label=label)
        axes[0].legend(frameon=False, fontsize=8)
        entitle(figure, "LSTM with a mixture of experts: learning curves")
        figure.savefig(file, dpi=DPI)


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__)
    parser.add_argument("--only-preset", action="store_true", help="10 experts, hidden width 512, 20 epochs")
    parser.add_argument("--sweep-epochs", type=int, default=10, help="epochs of each run of the sweep")
    asked = parser.parse_args()
    sweep, wanted = asked.sweep_epochs, [(10, 512, False, 20)]
    if not asked.only_preset:
        shapes = itertools.product((256, 512), (10, 5, 20))
        wanted += [*((experts, hidden, False, sweep) for hidden, experts in shapes), (10, 512, True, sweep)]
    smaller = []
    if asked.quick:
        wanted = [(10, 512, False, 1), (5, 256, True, 2)]
        smaller = ["--data.limit", "1024", "--model.width", "32"]
    study = Study("lstm_moe", table, asked.quick)
    collect(study, [_run(*shape, smaller) for shape in wanted], curves)
    draw(study.rows, study.folder / "curves.png")
    print(table(study.rows))


def _run(experts: int, hidden: int, blur: bool, epochs: int, smaller: list[str]) -> Run:
    preset = (experts, hidden, blur, epochs) == (10, 512, False, 20)
    changes = [] if preset else ["--data.validation", "5000", "--moe.num_experts", str(experts)]
    changes += [] if preset else ["--moe.hidden", str(hidden), "--train.epochs", str(epochs)]
    changes += ["--train.blur", "2"] if blur else []
    key = {"experts": experts, "hidden": hidden, "epochs": epochs, "blur": blur, "seed": 0}
    return Run(key, ["--config", "mnist_lstm", *changes, *smaller])


if __name__ == "__main__":
    main()
