"""Configurations drawn by chance run a step, really, by the ordinary command, or end in a sentence."""

import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from moejax.config import Config, configured, to_json
from moejax.data import DATASETS
from tests.torture.configs import changes, drawn
from tests.torture.files import KINDS
from tests.torture.small_runs import say

SEED = 26
# By what a model reads, a data set of one's own and what makes its files; of `None` none are needed.
DATA = {
    "image": ("arrays", "npz", "some.npz"),
    "tokens": ("text", "text", ""),
    "first": ("pairs", "tsv", "some.tsv"),
    "patches": ("clusters", None, ""),
}
SHORT = {
    **{"data.limit": 8, "data.evaluation_limit": 4, "train.epochs": 1, "train.batch_size": 8, "train.chunk": 1},
    **{"train.evaluation_batch": 4, "train.gradient_accumulation_steps": 1, "train.stop_rise": None},
    **{"train.activations": False, "train.tested": "last"},
}


def run_steps(cases: int) -> tuple[Counter, list[str]]:
    """How many runs of each kind of model took their step or ended in a sentence, and what is wrong with others."""
    found, wrong, seed = Counter(), [], 0
    with tempfile.TemporaryDirectory() as place:
        for _, kind, _ in DATA.values():
            if kind:
                (Path(place) / kind).mkdir()
                KINDS[kind][0](Path(place) / kind)
        while found.total() + len(wrong) < cases:
            seed += 1
            config = _short(drawn(np.random.default_rng([SEED, seed]), small=True), Path(place))
            if config is not None:
                problem = _problem(config, Path(place) / str(seed))
                if problem not in ("", "a sentence"):
                    wrong.append(f"seed {seed}: {changes(config)}: {problem}")
                else:
                    found[problem or config.model.name] += 1
    return found, wrong


def _short(config: Config, place: Path) -> Config | None:
    """The same on a few examples of one's own; None where there are none of that kind."""
    holds = DATASETS[config.data.name]
    if holds.holds not in DATA or holds.many_tasks:
        return None
    name, kind, file = DATA[holds.holds]
    where = {"data.dir": str(place / kind / file)} if kind else {}
    few = {"data.length": 16} if holds.holds in ("tokens", "first") else {}
    short, problems = configured({**SHORT, "data.name": name, **where, **few}, config)
    return None if problems else short


def _problem(config: Config, out: Path) -> str:
    """Empty if it took its step, `a sentence`, or what went wrong."""
    file = out.with_suffix(".json")
    file.write_text(to_json(config), encoding="utf-8")
    try:
        said = say("run", "--config", file, "--out", out)
    except BaseException:  # whatever escapes is what is looked for
        return traceback.format_exc(limit=-4)
    if said.code == 0:
        return "" if (out / "summary.json").exists() else "no summary"
    told = said.code == 2 and said.err.splitlines()[-1].startswith("moejax: ")
    return "a sentence" if told else f"exit code {said.code}: {said.err[-600:]}"
