"""Which experts, how many and which gate suit MRPC, and does any of it beat always answering "paraphrase"?

    python -m experiments mrpc_allocation                        eleven models from scratch, 5 seeds each: 18 minutes
    python -m experiments mrpc_allocation --models mlp_10 rnn_4   some of them

Times are for two CPU cores. Each run is `python -m moejax.run --config mrpc_…` with the words that `MODELS` adds.
Expect 73 to 76 % on dev and 72 to 74 % on test, where the majority answer has 68.4 and 66.5 %.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.mrpc_scores import dev, f1_of_majority
from experiments.study import Row, Run, Study, collect, fewer, parser_of
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation


class Model(NamedTuple):
    """A line of the table: what it is called there, the words of its command, and the original's test accuracy."""

    title: str
    gate: str
    dropout: str
    words: Sequence[str]
    original: str = ""


# With slots for a fair share, experts by position drop a sixth of the choices: all sentences of a kind choose the same.
_OF_LAYER = {
    "sparse": ["--moe.capacity_factor", "none", "--moe.eval_capacity_factor", "none"],
    "soft": ["--moe.slots", "1"],
}


def _mlp(layer: str, experts: int, hidden: int, dropout: float) -> list[str]:
    words = ["--config", "mrpc_mlp", "--moe.layer", layer, *_OF_LAYER.get(layer, [])]
    return [*words, "--moe.num_experts", str(experts), "--moe.hidden", str(hidden), "--model.dropout", str(dropout)]


def _reader(expert: str, experts: int) -> list[str]:
    return ["--config", f"mrpc_{expert}", "--moe.num_experts", str(experts)]


MODELS = {
    "mlp_4_plain": Model("4 MLPs of 256", "dense", "none", _mlp("dense", 4, 256, 0.0), "58.09"),
    "mlp_10_plain": Model("10 MLPs of 512", "dense", "none", _mlp("dense", 10, 512, 0.0), "50.26"),
    "mlp_10": Model("10 MLPs of 512", "dense", "0.3", _mlp("dense", 10, 512, 0.3), "66.6"),
    "mlp_10_sparse": Model("10 MLPs of 512", "sparse, k = 2", "0.3", _mlp("sparse", 10, 512, 0.3)),
    "mlp_10_random": Model(
        "10 MLPs of 512", "at random, k = 2", "0.3", [*_mlp("sparse", 10, 512, 0.3), "--moe.router", "random"]
    ),
    "mlp_10_hash": Model(
        "10 MLPs of 512", "by position, k = 2", "0.3", [*_mlp("sparse", 10, 512, 0.3), "--moe.router", "hash"]
    ),
    "mlp_10_soft": Model("10 MLPs of 512", "soft", "0.3", _mlp("soft", 10, 512, 0.3)),
    "cnn_4": Model("4 CNNs of 32", "sparse, k = 2", "0.3", _reader("cnn", 4), "66.42"),
    "cnn_6": Model("6 CNNs of 32", "sparse, k = 2", "0.3", _reader("cnn", 6), "66.42"),
    "rnn_4": Model("4 GRUs of 32", "sparse, k = 2", "0.3", _reader("rnn", 4), "66.42"),
    "rnn_6": Model("6 GRUs of 32", "sparse, k = 2", "0.3", _reader("rnn", 6), "66.42"),
}
QUICK = ("mlp_10", "cnn_4", "rnn_4")
SMALLER = (
    *("--data.source", "synthetic", *fewer(128), "--train.epochs", "1"),
    *("--data.vocabulary", "500", "--moe.hidden", "8"),
)


def table(rows: list[Row]) -> str:
    """The majority answer, then one line a model; in bold the best on dev, chosen there, of those with all seeds."""
    header = ["experts", "gate", "dropout", "seeds", "dev accuracy", "dev F1", "test accuracy", "test F1", "original"]
    best = max(models_of(rows), key=lambda name: _of_merit(_of(rows, name, "dev_accuracy")), default=None)
    lines = [_line(name, rows, name == best) for name in models_of(rows)]
    return markdown([*header, "parameters"], [_majority(rows), *lines] if rows else [])


def models_of(rows: list[Row]) -> list[str]:
    """The models that have rows, in the order of `MODELS`."""
    return [name for name in MODELS if any(row["model"] == name for row in rows)]


def _of_merit(dev_accuracies: list[float]) -> tuple[int, float]:
    """What the best model has most of: seeds, for a single one says little, then accuracy."""
    return len(dev_accuracies), statistics.mean(dev_accuracies)


def _of(rows: list[Row], model: str, name: str) -> list[float]:
    return [row[name] for row in rows if row["model"] == model]


def _majority(rows: list[Row]) -> list[str]:
    dev, test = rows[0]["dev_majority"], rows[0]["majority"]
    scores = (dev, f1_of_majority(dev), test, f1_of_majority(test))
    return ["*always paraphrase*", "", "", "", *(f"{score:.2%}".replace("%", " %") for score in scores), "", "0"]


def _line(name: str, rows: list[Row], best: bool) -> list[str]:
    model = MODELS[name]
    scores = [
        mean_and_deviation(_of(rows, name, score), "{:.2f}%")
        for score in ("dev_accuracy", "dev_f1", "test_accuracy", "test_f1")
    ]
    if best:
        scores = [f"**{score}**" for score in scores]
    seeds, parameters = _of(rows, name, "seed"), _of(rows, name, "parameters")
    original = f"{model.original} %" if model.original else ""
    return [model.title, model.gate, model.dropout, str(len(seeds)), *scores, original, f"{parameters[0]:,}"]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("mrpc_allocation", __doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int)
    asked = parser.parse_args(arguments)
    models = asked.models or (QUICK if asked.quick else MODELS)
    seeds = asked.seeds or range(1 if asked.quick else 5)
    study = Study("mrpc_allocation", table, asked.quick)
    words = SMALLER if asked.quick else ()
    collect(
        study,
        [
            Run({"model": model, "seed": seed}, [*MODELS[model].words, "--seed", str(seed), *words])
            for seed in seeds
            for model in models
        ],
        dev,
    )
    if study.rows:
        picture(study.rows, study.folder / "accuracy.png")
    print(table(study.rows))


def picture(rows: list[Row], path: Path) -> None:
    """Test accuracy of every seed beside the majority answer and the original's figure."""
    import matplotlib
    from matplotlib.figure import Figure

    from moejax.report.style import DPI, EXPERTS, INK, MUTED, STYLE

    names = models_of(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.9 + 0.34 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(100 * rows[0]["majority"], color=MUTED, lw=1, ls="--", zorder=1, label="always paraphrase")
        for y, name in enumerate(names):
            seeds = [100 * score for score in _of(rows, name, "test_accuracy")]
            first = y == 0
            axes.plot(seeds, [y] * len(seeds), "o", ms=4, alpha=0.5, color=EXPERTS[0], label="seeds" if first else None)
            axes.plot(statistics.mean(seeds), y, "|", ms=15, mew=2, color=INK, label="their mean" if first else None)
            if MODELS[name].original:
                label = "the original" if first else None
                axes.plot(float(MODELS[name].original), y, "x", ms=6, mew=1.5, color=EXPERTS[2], label=label)
        titles = [
            f"{m.title}, {m.gate}" + (", no dropout" if m.dropout == "none" else "") for m in map(MODELS.get, names)
        ]
        axes.set(yticks=range(len(names)), yticklabels=titles, ylim=(len(names) - 0.5, -0.5), xlabel="test accuracy, %")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, dpi=DPI)
