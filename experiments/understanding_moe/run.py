"""When does a mixture of experts learn what no single expert can? Synthetic clusters after Chen et al. 2022.

    python -m experiments understanding_moe                     all of it: 2 hours
    python -m experiments understanding_moe --rules authors     the authors' mixtures, and the pictures: 17 minutes
    python -m experiments understanding_moe --rules 128 512 settled     the single models: 90 minutes

Times are for one CPU core; all seeds of a setting train in one program. Expect a nonlinear mixture near 99 % and its
experts a cluster or two each, a linear one below and undivided, and single models far below.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from experiments.study import Key, Row, Study, meaning_of, parser_of
from moejax.config import Config, make_config
from moejax.presets.clusters import mixture, our_mixture, papers_mixture, single
from moejax.report.markdown import markdown
from moejax.report.mean import mean_and_deviation

# Test accuracy in per cent and dispatch entropy in nats, mean and standard deviation of 10 runs (the paper's table 1).
# No single model of sums over patches can do better than 87.5 where features and feature noise are alike (theorem 4.1).
PAPER: Mapping[str, tuple[str, ...]] = {
    "single_linear": ("68.71", "60.59", "74.81", "74.63", "≤ 87.5"),
    "single_nonlinear": ("79.48", "72.29", "72.69", "67.60", "≤ 87.5"),
    "moe_linear": (
        "92.99 ± 2.11 / 1.300 ± 0.044",
        "88.48 ± 1.96 / 1.294 ± 0.036",
        "95.93 ± 1.34 / 1.160 ± 0.100",
        "93.30 ± 1.48 / 1.160 ± 0.155",
        "",
    ),
    "moe_nonlinear": (
        "99.46 ± 0.55 / 0.098 ± 0.087",
        "98.09 ± 1.27 / 0.171 ± 0.103",
        "99.99 ± 0.02 / 0.008 ± 0.011",
        "98.92 ± 1.18 / 0.089 ± 0.120",
        "",
    ),
}
SETTINGS = {"s1": "S1", "s2": "S2", "s3": "S3", "s4": "S4", "theorem": "theorem 4.1"}
TRAIN, QUICK_EXAMPLES = 16_000, 500
RULES = {
    "authors": "the authors' rule",
    "ours": "our rule",
    "random": "our rule, routed at random",
    "paper": "the paper's rule",
    "128": "128 filters",
    "512": "512 filters",
    "settled": "512 filters, a rate that settles",
}
RULES_OF = {  # which rules a model is trained by; cubic filters settle by the authors' rate
    "single_linear": ("128", "512", "settled"),
    "single_nonlinear": ("128", "512"),
    "moe_linear": ("authors", "ours", "random", "paper"),
    "moe_nonlinear": ("authors", "ours", "random", "paper"),
}
SEEDS = {rule: 3 if rule in ("512", "settled") else 10 for rule in RULES}


def table(rows: list[Row]) -> str:
    """One line a model and rule beside the paper's: test accuracy / dispatch entropy in each setting."""
    lines = []
    for model, paper in PAPER.items():
        name = model.replace("_", " ").replace("moe", "MoE")
        lines.append([name, "the paper", "10", *paper])
        for rule in RULES:
            mine = [row for row in rows if row["model"] == model and row["rule"] == rule]
            if mine:
                seeds = len({row["seed"] for row in mine})
                lines.append([name, RULES[rule], str(seeds), *(_cell(mine, setting) for setting in SETTINGS)])
    return markdown(["model", "", "seeds", *SETTINGS.values()], lines)


def _cell(rows: list[Row], setting: str) -> str:
    mine = [row for row in rows if row["setting"] == setting]
    if not mine:
        return ""
    accuracy = mean_and_deviation([100 * row["accuracy"] for row in mine])
    if mine[0]["model"].startswith("single"):
        return accuracy
    return f"{accuracy} / {mean_and_deviation([row['entropy'] for row in mine], '{:.3f}')}"


def configuration(model: str, rule: str, setting: str) -> Config:
    """The run that a line of the table stands for."""
    layer, kind = model.split("_")
    if layer == "single":
        values = single(kind, filters=512 if rule == "settled" else int(rule))
        if rule == "settled":  # the step of all filters together is that of 128 at the authors' rate
            values["train"] |= {"learning_rate": values["train"]["learning_rate"] / 4, "schedule": "cosine"}
    else:
        make = {"authors": mixture, "paper": papers_mixture, "ours": our_mixture, "random": our_mixture}[rule]
        values = make(kind)
    if rule == "random":
        own = ("raw_weights", "eval_noise")  # of the router that it had
        values["moe"] = {name: value for name, value in values["moe"].items() if name not in own} | {"router": "random"}
    return make_config(**values).replace(data=dict(setting=setting))


def shortened(config: Config) -> Config:
    """The same for a few steps."""
    return config.replace(train=dict(epochs=20))


def measure(keys: Sequence[Key], config: Config, n: int) -> list[Row]:
    """Train these seeds of a model, by a rule and in a setting, in one program."""
    from experiments.understanding_moe.training import train
    from moejax.training.environment import environment

    result = train(config, [key["seed"] for key in keys], n=n)
    return [
        {
            "accuracy": float(result.accuracy[i]),
            "entropy": float(result.entropy[i]),
            "steps": int(result.steps[i]),
            "final_loss": float(result.loss[i, -1]),
            "together": len(keys),
            "seconds_of_all": round(result.seconds, 1),
            "environment": environment(),
        }
        for i in range(len(keys))
    ]


def main(arguments: Sequence[str]) -> None:
    """Run what is missing."""
    parser = parser_of("understanding_moe", __doc__)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures, of one seed of S1, as they are")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.rules, asked.settings = ["authors", "128"], ["s1"]
    study = Study("understanding_moe", table, asked.quick)
    examples = QUICK_EXAMPLES if asked.quick else TRAIN
    for model in reversed(PAPER):
        for rule in asked.rules:
            if rule in RULES_OF[model]:
                for setting in asked.settings:
                    config = configuration(model, rule, setting)
                    if asked.quick:
                        config = shortened(config)
                    seeds = range(2 if asked.quick else SEEDS[rule])
                    keys = [{"model": model, "rule": rule, "setting": setting, "seed": seed} for seed in seeds]
                    study.fill(keys, meaning_of(config), partial(measure, config=config, n=examples))
    if not asked.no_pictures:
        draw(study, asked.quick)
    print(table(study.rows))


def draw(study: Study, quick: bool) -> None:
    """The data, the alignment of experts and routers over training, and the dispatch as an animation."""
    from experiments.understanding_moe.pictures import draw_all

    configs = {kind: configuration(f"moe_{kind}", "authors", "s1") for kind in ("linear", "nonlinear")}
    if quick:
        configs = {kind: shortened(config) for kind, config in configs.items()}
    draw_all(study.folder, configs, QUICK_EXAMPLES if quick else TRAIN, every=5)
