"""Does a gate for each task help where tasks conflict?

    python -m experiments multitask             all of it, five seeds: an hour
    python -m experiments multitask --seeds 0   one seed of each: 12 minutes

Times are for one CPU core. Each run is `python -m moejax.run --config mnist_tasks` with the words of its line: digit,
parity, size and slant of an MNIST image, or two halvings of the ten digits whose answers correlate by a chosen amount.
All lines of a setting cost as many FLOPs an image, top 2 three per cent less.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.study import Row, Run, Study, collect, fewer, log, million, parser_of, summary
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

_FASTER = ("--train.learning_rate", "0.03")
_TOP_2 = ("--moe.k", "2", "--moe.dispatch", "grouped")  # nothing is dropped
# Of the model's experts, by words; the hidden widths are those at which an image costs what it costs under MMoE.
FOUR = {
    "shared bottom": ("--moe.layer", "dense", "--moe.num_experts", "1", "--moe.hidden", "159", *_FASTER),
    "one gate": ("--moe.layer", "dense", "--moe.num_experts", "8", "--moe.hidden", "19"),
    "one gate, top 2": ("--moe.layer", "sparse", "--moe.num_experts", "8", "--moe.hidden", "72", *_TOP_2),
    "a gate a task (MMoE)": ("--moe.num_experts", "8", "--moe.hidden", "16"),
    "a network a task": ("--moe.num_experts", "4", "--moe.hidden", "40", "--model.own_expert", "true"),
}
TWO = {
    "shared bottom": ("--moe.layer", "dense", "--moe.num_experts", "1", "--moe.hidden", "23"),
    "one gate": ("--moe.layer", "dense", "--moe.num_experts", "4", "--moe.hidden", "5"),
    "a gate a task (MMoE)": ("--moe.num_experts", "4", "--moe.hidden", "4"),
    "a network a task": ("--moe.num_experts", "2", "--moe.hidden", "12", "--model.own_expert", "true"),
}
QUICK = ("shared bottom", "a gate a task (MMoE)")
# setting → (the tasks, the numbers of an image that a task gets, the models)
SETTINGS = {
    "four tasks, 1 number": ("digit,parity,size,slant", 1, FOUR),
    "four tasks, 2 numbers": ("digit,parity,size,slant", 2, FOUR),
    "four tasks, 4 numbers": ("digit,parity,size,slant", 4, FOUR),
    "four tasks, 16 numbers": ("digit,parity,size,slant", 16, FOUR),
    "halves that correlate by -1": ("half,half_5", 1, TWO),
    "halves that correlate by 0.6": ("half,half_1", 1, TWO),
    "halves that correlate by 0.2": ("half,half_2", 1, TWO),
}
NUMBERS = {name: width for name, (tasks, width, _) in SETTINGS.items() if tasks.startswith("digit")}
CORRELATIONS = {name: float(name.rpartition(" ")[2]) for name in SETTINGS if name not in NUMBERS}
_OF_TASKS = ("digit", "parity", "size", "slant")


def table(rows: list[Row]) -> str:
    """One line for each setting and model: means over its seeds."""
    header = ["setting", "model", "seeds", "validation", "test, mean of the tasks", *_OF_TASKS, "MFLOP/image"]
    kinds = [(setting, model) for setting, (_, _, models) in SETTINGS.items() for model in models]
    return markdown(header, [_line(*kind, rows) for kind in kinds if rows_of(*kind, rows)])


def rows_of(setting: str, model: str, rows: list[Row]) -> list[Row]:
    """The seeds of one line of the table."""
    return [row for row in rows if (row["setting"], row["model"]) == (setting, model)]


def _line(setting: str, model: str, rows: list[Row]) -> list[str]:
    mine = rows_of(setting, model, rows)
    return [
        setting,
        model,
        str(len(mine)),
        mean_and_deviation([row["validation_accuracy"] for row in mine], "{:.2f}%"),
        mean_and_deviation([row["test_accuracy"] for row in mine], "{:.2f}%"),
        *(_of_task(task, mine) for task in _OF_TASKS),
        million(mine, "flops_per_example"),
    ]


def _of_task(task: str, rows: list[Row]) -> str:
    found = [row["test_accuracy_of"][task] for row in rows if task in row["test_accuracy_of"]]
    return mean_and_deviation(found, "{:.1f}%") if found else "–"


def from_folder(folder: Path) -> Row:
    """The accuracy of each task, and that of the last epoch on validation images."""
    return {
        "test_accuracy_of": summary(folder)["test_accuracy_of"],
        "validation_accuracy": log(folder, "validation")[-1]["accuracy"],
    }


def words(setting: str, model: str, seed: int) -> list[str]:
    """What follows `python -m moejax.run`."""
    tasks, width, models = SETTINGS[setting]
    given = ["--data.tasks", tasks, "--model.width", str(width), *models[model]]
    return ["--config", "mnist_tasks", "--seed", str(seed), *given]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("multitask", __doc__)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args(arguments)
    study = Study("multitask", table, asked.quick)
    settings = ["four tasks, 2 numbers"] if asked.quick else asked.only
    smaller = [*fewer(1000), "--train.epochs", "1"] if asked.quick else []
    collect(
        study,
        [
            Run({"setting": setting, "model": model, "seed": seed}, [*words(setting, model, seed), *smaller])
            for seed in ([0] if asked.quick else asked.seeds)
            for setting in settings
            for model in (QUICK if asked.quick else SETTINGS[setting][2])
        ],
        from_folder,
    )
    if study.rows:
        from experiments.multitask.pictures import draw

        draw(study.rows, NUMBERS, CORRELATIONS, study.folder / "multitask.png")
    print(table(study.rows))
