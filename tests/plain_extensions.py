"""What a newcomer adds: the files of the pages in moejax/adding/, as they stand there.

Run by `test_plain_process.py` in a process of its own.
"""

import importlib
import json
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

import moejax
from moejax import run

PAGES = Path(moejax.__file__).parent / "adding"


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    """Each page's file, saved by its name and imported."""
    folder = tmp_path_factory.mktemp("mine")
    found = {}
    for page in PAGES.glob("*.md"):
        for name, code in re.findall(
            r"^`(\w+)\.py`:\n\n```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            (folder / f"{name}.py").write_text(code)
            found[name] = page.stem
    assert found == {"cosine": "router", "bottleneck": "expert", "strips": "model", "bars": "data_set"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield {name: importlib.import_module(name) for name in found}


NEW = {
    "data.name": "bars",
    "data.rows": 3,
    "model.name": "strips",
    "model.strips": 4,
    "moe.layer": "sparse",
    "moe.router": "cosine",
    "moe.sharpness": 5.0,
    "moe.expert": "bottleneck",
    "moe.gain": 0.5,
}


def test_a_run_of_all_four(tmp_path, capsys):
    words = [word for name, value in NEW.items() for word in (f"--{name}", str(value))]
    few = ["--train.epochs", "2", "--train.batch_size", "20", "--out", str(tmp_path / "run")]
    assert run.main(["--config", "mnist_tiny", *words, *few]) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: written[name.split(".")[0]][name.split(".")[1]] for name in NEW} == NEW


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--moe.sharpness", "1"], "moe.sharpness has no effect with moe.layer soft; it belongs to moe.layer sparse"),
        (["--moe.expert", "bottleneck", "--moe.gain", "-1"], "moe.gain is -1.0; it must be a number above 0."),
        (["--data.name", "bars", "--data.rows", "1"], "data.rows is 1; it must be a whole number from 2 to 28."),
    ],
)
def test_their_options_are_checked_as_all_others(words, sentence, capsys):
    assert run.main(["--config", "mnist_soft", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_help_tells_of_them(capsys):
    assert run.main(["--help", "moe.router", "moe.sharpness"]) == 0
    said = capsys.readouterr().out
    assert "cosine" in said
    assert "Factor on the cosines." in said


@pytest.mark.parametrize("made", [False, True])
def test_a_layer_takes_a_router_of_ones_own(made, added):
    kind, rngs, x = added["cosine"].Cosine, nnx.Rngs(0), jax.random.normal(jax.random.key(0), (2, 9, 8))
    own = kind(8, 4, 2, sharpness=3.0, rngs=rngs) if made else kind
    options = {} if made else {"sharpness": 3.0}
    layer = moejax.SparseMoE(
        8, 4, lambda rngs: moejax.MLP(8, 16, rngs=rngs), router=own, group_size=0, rngs=rngs, **options
    )
    y, routing = layer(x)
    assert (y.shape, routing.experts.shape, layer.router.sharpness) == (x.shape, (2, 9, 2), 3.0)
    with pytest.raises(ValueError, match="sharpness is 0; it must be a number above 0"):
        kind(8, 4, 2, sharpness=0, rngs=rngs)
    with pytest.raises(ValueError, match="slots is no option of Cosine, which has jitter, priority, sharpness"):
        moejax.SparseMoE(8, 4, lambda rngs: moejax.MLP(8, 16, rngs=rngs), router=kind, slots=2, rngs=rngs)
