"""Where do experts pay? On images in domains, by networks too small to learn all domains at once.

    python -m experiments domains --data.dir DIR                            all of it: 3 hours
    python -m experiments domains --data.dir DIR --only table --of mnist    on MNIST alone

Times are for one CPU core. DIR holds mnist/ and fashion_mnist/; without --data.dir they are looked for, and what is not
found is left out. Each row holds the command that repeats it. Expect a learnt choice of experts to come near the choice
by domain, far above a dense network of as many FLOPs and above experts that are chosen at random.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.study import Row, Study, fewer, last_of_each, parser_of
from moejax.data import load
from moejax.data.domains import SETS
from moejax.errors import UserError
from moejax.metrics import label_information
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

# The table's columns: of which images, changed how, into how many domains each.
DATA = {
    ("mnist", "rotations", 4): "MNIST, 4 rotations",
    ("mnist", "permutations", 8): "MNIST, 8 permutations",
    ("fashion_mnist", "rotations", 4): "Fashion-MNIST, 4 rotations",
    ("fashion_mnist", "permutations", 8): "Fashion-MNIST, 8 permutations",
    ("both", "rotations", 4): "both, 2 × 4 rotations",
    ("both", "permutations", 8): "both, 2 × 8 permutations",
}
WIDTH, ALL = 16, 256  # hidden numbers that an image is worth, and those of all experts
ROUTER = 4  # hidden numbers of a dense network that cost what the router of 64 experts does
BASE = {
    "data.name": "domains",
    "model.name": "flat",
    "model.second_hidden": "none",
    "model.pool": 4,
    "train.epochs": 6,
    "train.batch_size": 128,
    "train.learning_rate": 4e-3,
}
SPARSE = {"num_experts": 64, "hidden": 4, "k": 4, "router": "sigmoid", "dispatch": "grouped"}
SPARSE |= {"balance_weight": 0.01, "z_weight": 0.001}
# The table's lines, and how the layer of each differs from that: it has as many hidden numbers in other shapes.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("dense, equal FLOPs", {"layer": "dense", "num_experts": 1, "hidden": WIDTH + ROUTER}),
    "random": ("4 of 64 at random", {"router": "random"}),
    "hash": ("4 of 64 by hash", {"router": "hash"}),
    "top1": ("top-1 of 16", {"num_experts": 16, "hidden": 16, "k": 1}),
    "upcycled": ("top-1 of 16, upcycled", {"num_experts": 16, "hidden": 16, "k": 1}),
    "top2": ("top-2 of 32", {"num_experts": 32, "hidden": 8, "k": 2}),
    "top4": ("top-4 of 64", {}),
    "relu": ("ReLU, 4 of 64", {"router": "relu"}),
    "soft": ("soft, all 64", {"layer": "soft", "num_experts": 64, "hidden": 4, "slots": 1}),
    "oracle": ("one expert a domain", {"router": "hash", "k": 1, "hidden": WIDTH}),
    "wide": ("dense, equal parameters", {"layer": "dense", "num_experts": 1, "hidden": ALL + ROUTER}),
}
CURVES = ("dense", "top4", "oracle", "wide")  # of the picture
PARTS = ("table", "domains", "FLOPs")
DOMAINS, WIDTHS = (1, 2, 4, 8, 16), (8, 16, 32, 64)
CHANGES = {"rotations": 4, "permutations": 8}


def table(rows: list[Row]) -> str:
    """A line a model: in each column the test accuracy and how much the expert tells of the domain."""
    columns = {key: name for key, name in DATA.items() if any(_data_of(row) == key for row in rows)}
    lines = []
    for model, (name, _) in MODELS.items():
        mine = [row for row in rows if row["model"] == model and row["width"] == WIDTH]
        if mine:
            known = [row for row in mine if _data_of(row) == next(iter(columns))] or mine
            kiloflops, parameters = f"{known[0]['flops'] / 1e3:.1f}", f"{known[0]['parameters']:,}"
            lines.append([name, kiloflops, parameters, *(_cell(mine, key) for key in columns)])
    return markdown(["network", "kFLOP/image", "parameters", *columns.values()], lines)


def _data_of(row: Row) -> tuple[str, str, int]:
    return row["of"], row["change"], row["domains"]


def _cell(rows: list[Row], data: tuple[str, str, int]) -> str:
    mine = [row for row in rows if _data_of(row) == data]
    if not mine:
        return ""
    accuracy = mean_and_deviation([100 * row["test_accuracy"] for row in mine])
    if mine[0]["num_experts"] == 1:
        return accuracy
    return f"{accuracy} / {mean_and_deviation([row['domain_information'] for row in mine])}"


def keys(only: Sequence[str], of: Sequence[str], seeds: Sequence[int]) -> Iterator[Row]:
    """The rows of the parts that are asked for, seed by seed."""
    for seed in seeds:
        if "table" in only:
            for data in DATA:
                yield from (_key(*data, WIDTH, model, seed) for model in MODELS if data[0] in of)
        if seed < 3:
            for change, usual in CHANGES.items():
                if "domains" in only:
                    yield from (_key("mnist", change, n, WIDTH, model, seed) for n in DOMAINS for model in CURVES)
                if "FLOPs" in only:
                    yield from (_key("mnist", change, usual, w, model, seed) for w in WIDTHS for model in CURVES)


def _key(of: str, change: str, domains: int, width: int, model: str, seed: int) -> Row:
    return {"of": of, "change": change, "domains": domains, "width": width, "model": model, "seed": seed}


def words(key: Row) -> list[str]:
    """What follows `python -m moejax.run` for a row."""
    model, width = key["model"], key["width"]
    own = MODELS[model][1]
    moe = own if "layer" in own else SPARSE | own
    routers = ROUTER if model in ("dense", "wide") else 0  # what the router of the others costs
    hidden = (moe["hidden"] - routers) * width // WIDTH + routers
    options = BASE | {name: key[name.split(".")[1]] for name in ("data.of", "data.change", "data.domains")}
    options |= {f"moe.{name}": value for name, value in (moe | {"hidden": hidden}).items()}
    if model == "oracle":
        options |= {"model.oracle": "true", "moe.num_experts": key["domains"] * len(SETS[key["of"]])}
    options["seed"] = key["seed"]
    return ["--config", "mnist_flat_sparse", *(word for name, v in options.items() for word in (f"--{name}", str(v)))]


def measure(study: Study, key: Row, more: Sequence[str]) -> None:
    """Train the network of a row, and keep what it does with the test examples."""
    from experiments.domains.training import train, upcycled
    from moejax.commandline import configure, parse
    from moejax.training.environment import environment

    config = configure(parse([*last_of_each([*words(key), *more])]))
    result = upcycled(config, 1) if key["model"] == "upcycled" else train(config)
    print(*key.values(), f"{result.accuracy:.2%}, {result.seconds:.0f} s", flush=True)
    study.add(
        {
            **key,
            "test_accuracy": result.accuracy,
            "train_accuracy": result.train_accuracy,
            "domain_information": float(label_information(result.domain_expert)),
            "max_violation": float(result.load.max() / result.load.mean() - 1),
            "num_experts": config.moe.num_experts,
            "flops": result.flops,
            "parameters": result.parameters,
            "seconds": round(result.seconds, 2),
            **({"domain_expert": result.domain_expert.round(1).tolist()} if key["seed"] == 0 else {}),
            "environment": environment() | {"command": _command(key)},
        }
    )


def _command(key: Row) -> str:
    """What repeats a row: the main job, or for one of two parts this study."""
    if key["model"] == "upcycled":
        return f"python -m experiments domains --only table --of {key['of']} --models upcycled --seeds {key['seed']}"
    return " ".join(["python -m moejax.run", *words(key)])


def main(arguments: Sequence[str]) -> None:
    """Run what is missing, then draw."""
    parser = parser_of("domains", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--of", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data.dir", dest="folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args(arguments)
    study = Study("domains", table, asked.quick)
    more = ["--data.dir", asked.folder] if asked.folder else []
    if asked.quick:
        asked.only, asked.of, asked.seeds = ["table"], ["mnist"], [0]
        more += [*fewer(2048, 512), "--train.epochs", "2"]
    sets = [of for of in asked.of if _found(of, asked.folder)]
    for key in keys(asked.only, sets, asked.seeds):
        if asked.quick and key["change"] != "rotations":
            continue
        if key["model"] in asked.models and not study.has(key):
            measure(study, key, more)
    if study.rows:
        from experiments.domains.pictures import draw

        draw(study.rows, study.folder / "domains.png", asked.folder)
    print(table(study.rows))


def _found(of: str, folder: str | None) -> bool:
    try:
        load("domains", of=of, domains=1, dir=folder)
    except UserError as error:
        print(f"{of} is left out:", *error.sentences, sep="\n  ")
        return False
    return True
