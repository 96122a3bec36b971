"""A model as one file: a program where this library is not there, and tensors that come back bit by bit."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs.test_model import IMAGE, RUNS, SPARSE, of_images
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.config import make_config
from moejax.data.dataset import take
from moejax.errors import UserError
from moejax.huggingface import PublishedFiles
from moejax.router_updates import moe_layers
from moejax.runs import onnx, tensors

KINDS = ["sigmoid", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name != "sigmoid")]

# In a process of its own, for the suite's shape checks know no open batch size. It trains nothing and draws nothing.
HERE = """
import sys
from moejax.__main__ import main
code = main(["export", sys.argv[1], "--format", "stablehlo", "--json"])
loaded = [name for name in sys.modules if name.startswith(("moejax.training", "moejax.report", "matplotlib"))]
assert not loaded, loaded
sys.exit(code)
"""

# What a program without moejax does; argv: the exported file, the inputs, where the outputs go.
ELSEWHERE = """
import sys
import jax, numpy as np
call = jax.export.deserialize(open(sys.argv[1], "rb").read()).call
inputs = np.load(sys.argv[2])
found = {}
for b in (1, 5, 33):
    answer = call(*(inputs[name][:b] for name in inputs.files))
    found |= {f"probabilities{b}": answer["probabilities"], f"gates{b}": answer["gates"][0]}
assert not [name for name in sys.modules if name.startswith("moejax")]
np.savez(sys.argv[3], **found)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_runs_for_any_batch_where_moejax_is_not_there(kind, tmp_path):
    make, values = RUNS[kind]
    data, run = make(), tmp_path / "run"
    saved_run(run, make_config(name="exported", **values), data, {1: 0.5})
    done = subprocess.run([sys.executable, "-c", HERE, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["file"] == str(run / "model.stablehlo")
    model = moejax.runs.load(run)
    batch = take(data.test, np.arange(33) % 20)
    np.savez(tmp_path / "inputs.npz", **{name: batch[name] for name in model.read.names})
    words = [sys.executable, "-c", ELSEWHERE, facts["file"], str(tmp_path / "inputs.npz"), str(tmp_path / "out.npz")]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    prediction, (route, *_) = model.answer(batch)
    with np.load(tmp_path / "out.npz") as found:
        for b in (1, 5, 33):
            np.testing.assert_allclose(found[f"probabilities{b}"], prediction.probabilities[:b], atol=1e-5)
            np.testing.assert_allclose(found[f"gates{b}"], route.gates[:b], atol=1e-5)


def skip_without_onnx():
    if jax.__version_info__[:2] > onnx.KNOWN:
        pytest.skip("jax2onnx knows no jax as new as this")
    pytest.importorskip("jax2onnx")


@pytest.mark.parametrize(
    "kind",
    ["grouped", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dense", "soft, averaged", "tasks", "pieces"))],
)
def test_onnxruntime_gives_the_answers_for_any_batch(kind, tmp_path):
    skip_without_onnx()
    onnxruntime = pytest.importorskip("onnxruntime")
    make, values = RUNS[kind]
    data, run, file = make(), tmp_path / "run", tmp_path / "model.onnx"
    saved_run(run, make_config(name="exported", **values), data, {1: 0.5})
    words = ["-m", "moejax", "export", str(run), "--format", "onnx", "--out", str(file)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = moejax.runs.load(run)
    batch = take(data.test, np.arange(33) % 20)
    prediction, routes = model.answer(batch)
    session = onnxruntime.InferenceSession(file.read_bytes())
    for b in (1, 5, 33):
        got, *gates = session.run(None, {name: batch[name][:b] for name in model.read.names})
        np.testing.assert_allclose(got, prediction.probabilities[:b], atol=1e-5)
        for found, route in zip(gates, routes, strict=True):
            np.testing.assert_allclose(found, route.gates[:b], atol=1e-5)


@pytest.mark.slow
def test_what_onnx_cannot_hold_is_one_sentence(tmp_path):
    skip_without_onnx()
    make, values = RUNS["pairs"]
    saved_run(tmp_path / "run", make_config(name="exported", **values), make(), {1: 0.5})
    words = ["-m", "moejax", "export", str(tmp_path / "run"), "--format", "onnx"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("moejax: jax2onnx cannot write this run's network (")
    assert line.endswith("); use --format stablehlo.")
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_without_its_libraries_onnx_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    assert main(["export", str(run), "--format", "onnx"]) == 2
    said = "moejax: onnx needs jax2onnx and onnxruntime, not installed here; pip install 'moejax[onnx]'."
    assert capsys.readouterr().err.strip() == said
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    assert main(["export", str(run), "--format", "onnx"]) == 2
    assert "install on Python 3.11, or use --format stablehlo" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    saved_run(path, make_config(name="bars", model=IMAGE, moe=SPARSE), of_images(), {1: 0.9, 2: 0.3})
    return path


def test_tensors_come_back_bit_by_bit_and_so_do_the_answers(run, tmp_path, capsys):
    file, images = tmp_path / "bars.safetensors", of_images().test["image"]
    words = ["export", str(run), "--format", "safetensors", "--out", str(file), "--checkpoint", "best"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: {file.stat().st_size:,} bytes, step 1, reads image: uint8[b, 28, 28]")
    model, again = moejax.runs.load(run, checkpoint="best"), moejax.runs.load(file)
    assert jax.tree.structure(model.module) == jax.tree.structure(again.module)
    jax.tree.map(np.testing.assert_array_equal, model.module, again.module)
    jax.tree.map(np.testing.assert_array_equal, model.answer(images), again.answer(images))
    assert (again.config, again.about, again.step) == (model.config, model.about, 1)


def test_sentences_are_tokenized_as_before(tmp_path):
    make, values = RUNS["pairs"]
    saved_run(tmp_path / "run", make_config(name="pairs", **values), make(), {1: 0.9})
    model, file = moejax.runs.load(tmp_path / "run"), tmp_path / "pairs.safetensors"
    file.write_bytes(tensors.pack(model))
    pair = ("the cat sat", "a dog ran")
    jax.tree.map(np.testing.assert_array_equal, moejax.runs.load(file).read(pair), model.read(pair))


def test_names_are_as_the_documentation_says(run):
    from safetensors.numpy import load

    arrays = load(tensors.pack(moejax.runs.load(run)))
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes["blocks.0.moe.router.kernel"] == (8, 4)
    assert shapes["blocks.0.moe.experts.up.kernel"] == (4, 8, 8)
    assert shapes["head.kernel"] == (25 * 8, 4)
    assert not [name for name in shapes if set(name) & set("[]")]


GATED = dict(layer="sparse", expert="glu", num_experts=4, hidden=8)
BLOCKS = {
    "mixtral": dict(router="softmax_top_k", renormalize=True),
    "olmoe": dict(router="softmax_top_k", renormalize=False),
    "granitemoe": dict(router="top_k_softmax"),
    "deepseek_v3": dict(router="sigmoid", bias_update_rate=0.1, shared=16, routed_scaling_factor=2.5),
}


@pytest.mark.parametrize("family", ["mixtral", *(pytest.param(f, marks=pytest.mark.slow) for f in [*BLOCKS][1:])])
def test_layers_that_are_blocks_of_hugging_face_come_back(family, tmp_path):
    depth = 1 if family == "mixtral" else 2
    config = make_config(name="blocks", model=IMAGE | dict(depth=depth), moe=GATED | BLOCKS[family])
    saved_run(tmp_path / "run", config, of_images(), {1: None})
    assert main(["export", str(tmp_path / "run"), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
    facts = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert facts["model_type"] == family
    assert facts["num_hidden_layers"] == depth
    for n, layer in enumerate(moe_layers(moejax.runs.load(tmp_path / "run").module)):
        again = moejax.from_huggingface(PublishedFiles(tmp_path / "hf"), facts, layer=n)
        for part in ("router", "experts", "shared"):
            ours, theirs = (jax.tree.leaves(getattr(one, part)) for one in (layer, again))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_layers_that_are_no_blocks_are_a_sentence(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "hf"]) == 2
    assert "The layers of this run are blocks of no family of Hugging Face; blocks of" in capsys.readouterr().err
    config = make_config(name="more", model=IMAGE, moe=GATED | BLOCKS["mixtral"] | dict(zero_experts=1))
    saved_run(tmp_path / "more", config, of_images(), {1: None})
    assert main(["export", str(tmp_path / "more"), "--format", "hf"]) == 2
    assert "Layer 0 of this run" in capsys.readouterr().err


def strangers(folder, content):
    """Files that are none, with what is said of them."""
    from safetensors.numpy import save

    yield folder / "none.safetensors", "is not a file; give one that moejax export wrote, or a run's folder"
    for name, wrong, sentence in [
        ("flipped", content[:-1] + bytes([content[-1] ^ 1]), "is not what was written; export it again"),
        ("renamed", content.replace(b'\\"seed\\": 0', b'\\"seed\\": 1'), "is not what was written"),
        ("short", content[:100], "is not a safetensors file"),
        ("other", save({"x": np.zeros(3)}), "is not of the form 'moejax 1', but None"),
    ]:
        assert wrong != content
        (folder / f"{name}.safetensors").write_bytes(wrong)
        yield folder / f"{name}.safetensors", sentence


def test_a_file_that_is_none_is_a_sentence(run, tmp_path):
    content = tensors.pack(moejax.runs.load(run))
    for file, sentence in strangers(tmp_path, content):
        with pytest.raises(UserError, match=sentence):
            moejax.runs.load(file)
    (tmp_path / "whole.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint is 'best', but .* holds one alone"):
        moejax.runs.load(tmp_path / "whole.safetensors", checkpoint="best")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: --format"),
        (["--format", "hdf5"], "argument --format: invalid choice: 'hdf5'"),
        (["--format", "safetensors", "--out", ""], "--out is '', which can be no path"),
        (["--format", "safetensors", "--out", "/proc/none/x"], "/proc/none/"),
        (["--format", "safetensors", "--checkpoint", "7"], "checkpoint is '7', but"),
    ],
)
def test_words_that_make_no_sense_are_a_sentence(run, words, sentence, capsys):
    assert main(["export", str(run), *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["export", "--format", "safetensors", "--out"], "config.json"),
        (["export", "--format", "safetensors", "--out"], "activations/epoch_1.csv"),
        (["compare", "--out"], "checkpoints/{step}/manifest"),
        (["predict", "x", "--figure"], "metrics.jsonl"),
    ],
)
def test_nothing_of_a_run_is_written_over(run, words, out, capsys):
    for name in ("metrics.jsonl", "activations/epoch_1.csv"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    file = next((run / "checkpoints").rglob("*.json")) if "{" in out else run / out
    before = file.read_bytes()
    assert main([words[0], str(run), *words[1:], str(file)]) == 2
    assert f"would write over {file}, which a run needs; give another place" in capsys.readouterr().err
    assert file.read_bytes() == before
