"""A language model that is asked: each token's answer, whatever else is in the batch; its exports; what is refused."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs.test_exports import skip_without_onnx
from runs.test_generate import SPARSE, of_text, text_config
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.errors import UserError
from moejax.runs import stablehlo, tensors, text_answers
from moejax.runs.about import About
from moejax.runs.inputs import Reader
from moejax.runs.text import batch_of, cut


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    saved_run(path, text_config(depth=1), of_text(), {1: 0.3})
    return path


@pytest.fixture(scope="module")
def model(run):
    return moejax.runs.load(run)


def test_texts_of_several_lengths_are_a_batch_and_cut_again(model):
    tool = model.read.text_tokens
    batch = batch_of(tool, ["abc", "ö"], length=16)
    np.testing.assert_array_equal(batch["tokens"], [[97, 98, 99, 0], [0xC3, 0xB6, 0, 0]])
    np.testing.assert_array_equal(batch["length"], [3, 2])
    for count, size in {1: 1, 3: 4, 12: 12, 13: 16, 16: 16, 20: 20, 21: 32}.items():
        assert batch_of(tool, [1] * count, length=12 if count == 12 else 20)["tokens"].shape == (1, size)
    found = cut((np.ones((2, 4, 1), np.float32), np.ones((2, 4), int)), batch["length"])
    np.testing.assert_array_equal(found[0][..., 0], [[1, 1, 1], [1, 1, np.nan]])
    np.testing.assert_array_equal(found[1], [[1, 1, 1], [1, 1, -1]])


def test_a_token_s_answer_is_that_of_its_window(model):
    """Whether it is asked as letters or tokens, alone or with others, cut short or filled up."""
    windows = of_text().test["tokens"][:2]
    logits = jax.jit(lambda m, x: m({"tokens": x}, train=False)[0])(model.module, windows)
    whole, (route,) = model.answer(windows)
    np.testing.assert_allclose(whole.probabilities, jax.nn.softmax(logits), atol=1e-6)
    assert route.experts.shape == (2, 16, 2)
    some, (its_route,) = model.answer([windows[0][:5], windows[1][:7]])
    np.testing.assert_allclose(some.probabilities[0, :5], whole.probabilities[0, :5], atol=1e-5)
    np.testing.assert_allclose(its_route.gates[1], route.gates[1, :7], atol=1e-5)
    assert np.isnan(some.probabilities[0, 5:]).all()
    assert (its_route.experts[0, 5:] == -1).all()
    text = "dög ran"
    np.testing.assert_array_equal(model.predict(text).classes[0], model.predict(list(text.encode())).classes[0])


def test_a_word_that_names_a_file_is_the_text_in_it(run, tmp_path, capsys):
    """Not the letters of its name."""
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("dög ran")
    other.write_bytes(b"a\xff")
    assert main(["predict", str(run), str(file), "dög ran", "--json"]) == 0
    of_file, of_word = json.loads(capsys.readouterr().out)
    assert of_file.pop("input") == str(file)
    assert of_word.pop("input") == "'dög ran'"
    assert of_file == of_word
    assert main(["predict", str(run), str(other)]) == 2
    assert capsys.readouterr().err == f"moejax: {other} is not UTF-8 text (byte 1); save it as UTF-8.\n"


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (7, "The text is 7; give a string, or tokens as whole numbers"),
        (None, "The text is None"),
        ([], "The batch is empty; give one text at least."),
        ("a" * 10_000, r"A text has 10,000 tokens, more than 8,192 that are read at once; cut it up"),
        ("", "A text is empty; give texts of one token at least."),
        (["a", ""], "A text is empty"),
        (["a", 3], "The text is 3"),
        ([[1, 2], [300]], "The text holds the token 300; this model's are 0 to 255."),
        ([-1], "The text holds the token -1"),
        ([1.5], r"The text is \[1.5\]"),
        (np.zeros((1, 2, 3), int), "The text is array"),
        ({"image": [1]}, "The batch has no 'tokens'; this model reads tokens."),
    ],
)
def test_what_is_no_text_is_a_sentence(model, x, sentence):
    with pytest.raises(UserError, match=sentence):
        model.read(x)


def test_a_model_that_sees_later_tokens_takes_whole_windows():
    data = of_text()
    for moe in (dict(layer="soft"), SPARSE | dict(router="expert_choice", dispatch="gather", group_size=0, k=1)):
        read = Reader(text_config(moe), About.of(data.record, None))
        assert read(data.test)["tokens"].shape == data.test["tokens"].shape
        with pytest.raises(UserError, match="sees tokens that come later; give texts of 16 tokens, as it has learnt"):
            read("abc")


def test_tokens_may_be_an_array_of_jax(model):
    given = [97, 98]
    for x, same in ((jnp.array(given), given), (jnp.array([given, given]), [given, given])):
        for name, array in model.read(x).items():
            np.testing.assert_array_equal(array, model.read(same)[name])


def test_predict_shows_each_token_with_its_probability_and_experts(run, model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["predict", str(run), "a ö\n", "--top", "2"]) == 0
    first, heading, *lines = capsys.readouterr().out.splitlines()
    prediction, (route,) = model.answer("a ö\n")
    assert first.startswith("'a ö\\n': 5 tokens, ")
    assert heading.split() == ["token", "foretold", "layer", "0"]
    assert [line.split()[0] for line in lines[:5]] == ["a", "␣", "0xc3", "0xb6", "⏎"]
    p = prediction.probabilities[0]
    assert lines[1].split()[1] == f"{p[0, 32]:.1%}"
    assert lines[1].count("%") == 3
    best = int(route.experts[0, 1, 0])
    assert f"{best}:{route.gates[0, 1, best]:.2f}" in lines[1]
    bits = -np.log2([p[0, 32], p[1, 0xC3], p[2, 0xB6], p[3, 10]]).sum() / 4
    of_text = np.array([*"a ö\n".encode()]), jax.tree.map(lambda a: a[0], prediction)
    assert text_answers.bits_per_byte(model, *of_text) == pytest.approx(bits, rel=1e-5)
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["predict", str(run), "ab"]) == 0
    assert "  1 more layer is in --json, or in a wider terminal" in capsys.readouterr().out.splitlines()


def test_predict_in_json(run, model, capsys):
    assert main(["predict", str(run), "ab", "c", "--json", "--top", "2"]) == 0
    two, one = json.loads(capsys.readouterr().out)
    p = model.predict(["ab"]).probabilities[0]
    assert [token["text"] for token in two["tokens"]] == ["a", "b"]
    assert two["tokens"][0]["probability"] is None
    assert two["tokens"][1]["probability"] == pytest.approx(p[0, 98], abs=1e-6)
    assert [best["token"] for best in two["next"]] == np.argsort(-p[1])[:2].tolist()
    assert np.shape(two["layers"][0]["gates"]) == (2, 4)
    assert one["bits_per_byte"] is None


def test_tensors_of_a_language_model_come_back(model, tmp_path):
    file = tmp_path / "words.safetensors"
    file.write_bytes(tensors.pack(model))
    again = moejax.runs.load(file)
    jax.tree.map(np.testing.assert_array_equal, again.module, model.module)
    assert again.writer.tool.vocabulary == 256


def test_the_exported_program_answers_each_token(model):
    (shape,) = stablehlo.inputs(model)
    assert (str(shape.shape[0]), shape.shape[1], shape.dtype) == ("b", 16, np.uint8)
    window = of_text().test["tokens"][:1]
    found = jax.jit(stablehlo.answering(model))(window)
    np.testing.assert_allclose(found["probabilities"], model.predict(window).probabilities, atol=1e-5)
    assert found["gates"][0].shape == (1, 16, 4)


def test_no_picture_and_no_text_are_sentences(run, tmp_path, capsys):
    assert main(["predict", str(run), "a", "--figure", str(tmp_path / "x.png")]) == 2
    assert "no tokens of this run's model lie on a picture; leave it out." in capsys.readouterr().err
    assert main(["predict", str(run), ""]) == 2
    assert capsys.readouterr().err == "moejax: A text is empty; give texts of one token at least.\n"


def test_the_data_of_text_cannot_be_fetched(capsys):
    for name in ("python", "text"):
        assert main(["data", "fetch", name]) == 2
        assert capsys.readouterr().err.startswith(f"moejax: Nothing of {name} can be fetched (")


@pytest.mark.slow
def test_a_language_model_is_exported_as_onnx_or_a_sentence_says_why_not(run, tmp_path):
    skip_without_onnx()
    words = ["-m", "moejax", "export", str(run), "--format", "onnx", "--out", str(tmp_path / "x.onnx")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, (tmp_path / "x.onnx").exists()) == (2, False)
    assert line.startswith("moejax: jax2onnx cannot write this run's network (")
