"""Where do experts pay? On images in domains, by networks too small to learn all domains at once.

    python -m experiments domains --data.dir DIR                            all of it: 5 hours
    python -m experiments domains --data.dir DIR --only table --of mnist    MNIST: an hour

Times are for one CPU core. DIR holds mnist/ and fashion_mnist/; without --data.dir they are looked for, and what is not
found is left out. Each row holds the command that repeats it. Expect a learnt choice of experts to come near the choice
by domain, far above a dense network of as many FLOPs and above experts that are chosen at random.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.study import Row, Study, can_load, fewer, last_of_each, meaning, parser_of
from moejax.data.domains import SETS
from moejax.metrics import label_information
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

# The table's columns, and how the images of a column are changed, into so many domains of each set.
SETS_SHOWN = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "both": "both"}
CHANGES = {"rotations": 4, "permutations": 16}
# Hidden numbers that an image is worth; the router reads means of so many pixels each way.
WIDTHS, POOLS = {"rotations": 16, "permutations": 8}, {"rotations": 4, "permutations": 2}
ROUTER = 4  # hidden numbers of a dense network that cost what a router does: 64 · (28 / 4)² = 16 · (28 / 2)² = 4 · 28²
BASE = {
    "data.name": "domains",
    "data.copies": 10,
    "model.name": "flat",
    "model.second_hidden": "none",
    "train.epochs": 2,
    "train.batch_size": 128,
    "train.learning_rate": 4e-3,
    "train.chunk": 500,
}
QUICK = ("dense", "oracle", "soft", "upcycled", "top4")
SPARSE = {"router": "sigmoid", "dispatch": "grouped", "balance_weight": 0.01, "z_weight": 0.001}
# The table's lines: name, and what the layer has; hidden widths are for an image's full width, and shrink with it.
Lines = dict[str, tuple[str, dict[str, Any]]]
OF_BOTH: Lines = {
    "dense": ("dense, equal FLOPs", {"layer": "dense", "num_experts": 1}),
    "oracle": ("one expert a domain", {"router": "hash", "k": 1, "share": 1}),
    "wide": ("dense, equal parameters", {"layer": "dense", "num_experts": 1, "share": 16}),
}
ROTATIONS: Lines = {
    "random": ("4 of 64 at random", {"num_experts": 64, "k": 4, "router": "random"}),
    "hash": ("4 of 64 by hash", {"num_experts": 64, "k": 4, "router": "hash"}),
    "soft": ("soft, all of 64", {"layer": "soft", "num_experts": 64, "slots": 1, "share": 1 / 4}),
    "relu": ("ReLU, 4 of 64", {"num_experts": 64, "k": 4, "router": "relu"}),
    "upcycled": ("top-1 of 16, upcycled", {"num_experts": 16, "k": 1}),
    "top1": ("top-1 of 16", {"num_experts": 16, "k": 1}),
    "top2": ("top-2 of 32", {"num_experts": 32, "k": 2}),
    "top4": ("top-4 of 64", {"num_experts": 64, "k": 4}),
}
PERMUTATIONS: Lines = {
    "random": ("1 of 16 at random", {"num_experts": 16, "k": 1, "router": "random"}),
    "hash": ("1 of 16 by hash", {"num_experts": 16, "k": 1, "router": "hash"}),
    "soft": ("soft, all of 16", {"layer": "soft", "num_experts": 16, "slots": 1, "share": 1}),
    "relu": ("ReLU, 1 of 16", {"num_experts": 16, "k": 1, "router": "relu"}),
    "upcycled": ("top-1 of 16, upcycled", {"num_experts": 16, "k": 1}),
    "top2": ("top-2 of 16", {"num_experts": 16, "k": 2}),
    "top1": ("top-1 of 16", {"num_experts": 16, "k": 1}),
}
MODELS: dict[str, Lines] = {
    change: {"dense": OF_BOTH["dense"], **lines, "oracle": OF_BOTH["oracle"], "wide": OF_BOTH["wide"]}
    for change, lines in (("rotations", ROTATIONS), ("permutations", PERMUTATIONS))
}
NAMES = list(dict.fromkeys(model for lines in MODELS.values() for model in lines))
BEST = {"rotations": "top4", "permutations": "top1"}
PARTS = ("table", "domains", "FLOPs")
CURVES_OF = range(3)  # seeds of the pictures' curves, which are of MNIST
DOMAINS, SHARES = (1, 2, 4, 8, 16), (0.5, 1, 2, 4)  # where they are


def table(rows: list[Row]) -> str:
    """A line a network: for each set of images its test accuracy and how much the expert tells of the domain."""
    sets = {of: name for of, name in SETS_SHOWN.items() if any(row["of"] == of for row in rows)}
    lines = []
    for change, domains in CHANGES.items():
        of_table = [row for row in rows if (row["change"], row["domains"], row["share"]) == (change, domains, 1)]
        for model, (name, _) in MODELS[change].items():
            if mine := [row for row in of_table if row["model"] == model]:
                kiloflops, parameters = f"{mine[0]['flops'] / 1e3:.1f}", f"{mine[0]['parameters']:,}"
                cells = [_cell([row for row in mine if row["of"] == of]) for of in sets]
                lines.append([f"{domains} {change}", name, kiloflops, parameters, *cells])
    return markdown(["domains", "network", "kFLOP/image", "parameters", *sets.values()], lines)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    accuracy = mean_and_deviation([100 * row["test_accuracy"] for row in rows])
    if rows[0]["num_experts"] == 1:
        return accuracy
    return f"{accuracy} / {mean_and_deviation([row['domain_information'] for row in rows])}"


def keys(only: Sequence[str], of: Sequence[str], seeds: Sequence[int]) -> Iterator[Row]:
    """The rows of the parts that are asked for, seed by seed."""
    for seed in seeds:
        for change, usual in CHANGES.items():
            if "table" in only:
                yield from (_key(o, change, usual, 1, model, seed) for o in of for model in MODELS[change])
            curves = ("dense", BEST[change], "oracle", "wide")
            if "mnist" not in of or seed not in CURVES_OF:
                continue
            if "domains" in only:
                yield from (_key("mnist", change, n, 1, model, seed) for n in DOMAINS for model in curves)
            if "FLOPs" in only:
                yield from (_key("mnist", change, usual, share, model, seed) for share in SHARES for model in curves)


def _key(of: str, change: str, domains: int, share: float, model: str, seed: int) -> Row:
    return {"of": of, "change": change, "domains": domains, "share": share, "model": model, "seed": seed}


def words(key: Row) -> list[str]:
    """What follows `python -m moejax.run` for a row."""
    model, change = key["model"], key["change"]
    own = dict(MODELS[change][model][1])
    width = WIDTHS[change] * key["share"]  # of all experts that see an image
    hidden = width * own.pop("share", 1 / own.get("k", 1)) + (ROUTER if model in ("dense", "wide") else 0)
    moe = (own if "layer" in own else SPARSE | own) | {"hidden": round(hidden)}
    options = BASE | {name: key[name.split(".")[1]] for name in ("data.of", "data.change", "data.domains")}
    options |= {"model.pool": POOLS[change]} | {f"moe.{name}": value for name, value in moe.items()}
    if model == "oracle":
        options |= {"model.oracle": "true", "moe.num_experts": key["domains"] * len(SETS[key["of"]])}
    options["seed"] = key["seed"]
    return ["--config", "mnist_flat_sparse", *(word for name, v in options.items() for word in (f"--{name}", str(v)))]


def measure(key: Row, more: Sequence[str]) -> Row:
    """Train the network of a row: what it does with the test examples."""
    from experiments.domains.training import train, upcycled
    from moejax.commandline import configure, parse
    from moejax.training.environment import environment

    config = configure(parse([*last_of_each([*words(key), *more])]))
    result = upcycled(config, 1) if key["model"] == "upcycled" else train(config)
    print(*key.values(), f"{result.accuracy:.2%}, {result.seconds:.0f} s", flush=True)
    return {
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
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--data.dir", dest="folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args(arguments)
    study = Study("domains", table, asked.quick)
    more = ["--data.dir", asked.folder] if asked.folder else []
    if asked.quick:
        asked.only, asked.of, asked.seeds = ["table"], ["mnist"], [0]
        asked.models = QUICK
        more += [*fewer(2048, 512), "--data.copies", "1"]
    sets = [of for of in asked.of if can_load(of, "domains", of=of, domains=1, dir=asked.folder)]
    wanted = [key for key in keys(asked.only, sets, asked.seeds) if key["model"] in asked.models]
    if sets and not wanted:
        parser.error("nothing is left to run; curves (--only domains FLOPs) are of mnist alone, seeds 0 to 2")
    for key in wanted:
        if not asked.quick or key["change"] == "rotations":
            study.fill([key], meaning([*words(key), *more]), lambda _, key=key: [measure(key, more)])
    if study.rows:
        from experiments.domains.pictures import draw

        draw(study.rows, CHANGES, BEST, study.folder / "domains.png", asked.folder)
    print(table(study.rows))
