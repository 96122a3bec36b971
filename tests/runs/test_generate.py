"""Text that is written: the draw by hand and by laws, the cache against the whole forward pass, and the verb."""

import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs.test_model import IMAGE, of_images
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.config import make_config
from moejax.data import text as text_data
from moejax.data.text_tokens import END, Bytes
from moejax.errors import UserError
from moejax.interrupt import StopSignal
from moejax.runs.about import About
from moejax.runs.generate import Writer
from moejax.runs.opening import empty
from moejax.runs.sampling import draw, keys_of, nucleus, tempered
from moejax.runs.text import Written
from moejax.serve.reading import going_on, reading
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Console, Progress

LENGTH = 16
SPARSE = dict(layer="sparse", num_experts=4, hidden=8, k=2, dispatch="grouped")
SENTENCES = ["the cat sat on the mat.\n", "a dög ran\n", "who sat there?\n"]


def text_config(moe=SPARSE, depth=2, **data):
    return make_config(
        name="words",
        data=dict(name="text", dir="words.txt", length=LENGTH) | data,
        model=dict(name="decoder", width=16, depth=depth, heads=2),
        moe=moe,
        train=dict(epochs=1, batch_size=8, learning_rate=1e-2, chunk=5, evaluation_batch=20),
    )


def of_text(vocabulary=None):
    rng = np.random.default_rng(0)
    texts = {str(n): "".join(rng.choice(SENTENCES, 40)) for n in range(12)}
    options = dict(source="dir", origin="here", held_out=0.1, length=LENGTH, validate=True)
    return text_data.dataset_of("text", texts, vocabulary=vocabulary, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained for an epoch."""
    path, config = tmp_path_factory.mktemp("runs") / "text", text_config()
    assert Fit(config, of_text(), RunFolder.create(path, config), Progress(Console(quiet=True))).train(StopSignal())
    return path


@pytest.fixture(scope="module")
def model(run):
    return moejax.runs.load(run)


def test_temperatures_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    np.testing.assert_allclose(tempered(logits, 1.0), jnp.exp(logits), atol=1e-6)
    np.testing.assert_allclose(tempered(logits, 0.5)[0], np.array([4, 1, 1]) / 6, atol=1e-6)  # squares
    np.testing.assert_array_equal(tempered(logits, 0.0), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(tempered(jnp.zeros(3), 0.0), [1, 0, 0])  # the first of equals
    np.testing.assert_array_equal(tempered(jnp.array([3.0, 900.0, -900.0]), 1e-40), [0, 1, 0])
    np.testing.assert_allclose(tempered(logits[0], 1e30), np.full(3, 1 / 3), atol=1e-6)


def test_nuclei_by_hand():
    p = jnp.array([0.125, 0.5, 0.125, 0.25])
    for top_p, want in {
        0.1: [0, 1, 0, 0],
        0.5: [0, 1, 0, 0],
        0.51: [0, 2 / 3, 0, 1 / 3],
        0.8: [1 / 7, 4 / 7, 0, 2 / 7],
    }.items():
        np.testing.assert_allclose(nucleus(p, top_p), want, atol=1e-6)
    np.testing.assert_allclose(nucleus(p, 1.0), p)
    assert np.count_nonzero(nucleus(p, 1e-300)) == np.count_nonzero(p.max(-1))  # which float32 has as 0


NUCLEUS = jax.jit(nucleus)


@given(st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any), st.integers(1, 63))
def test_a_nucleus_is_that_of_a_loop(counts, of_64):
    counts = [*counts, 64 - sum(counts)]  # shares are exact, so that no sum is beyond the bound by rounding
    kept, sum_so_far = [], 0
    for token in sorted(range(6), key=lambda token: (-counts[token], token)):
        if sum_so_far < of_64:
            kept.append(token)
        sum_so_far += counts[token]
    want = np.where(np.isin(np.arange(6), kept), counts, 0)
    got = NUCLEUS(jnp.array(counts, jnp.float32) / 64, of_64 / 64)
    np.testing.assert_allclose(got, want / want.sum(), atol=1e-6)


def test_draws_have_their_probabilities_and_no_other_tokens():
    p = jnp.array([0.0, 0.3, 0.7])
    keys = keys_of(jax.random.key(0), jnp.int32(4), 4000)
    drawn = np.bincount(draw(keys, jnp.tile(p, (4000, 1))), minlength=3) / 4000
    assert drawn[0] == 0
    np.testing.assert_allclose(drawn, p, atol=0.03)


def test_a_key_is_that_of_seed_position_and_text():
    def keys(seed, position, texts):
        return jax.random.key_data(keys_of(jax.random.key(seed), jnp.int32(position), texts)).tolist()

    assert keys(3, 7, 2) == keys(3, 7, 5)[:2]
    found = [str(key) for seed in (3, 4) for position in (7, 8) for key in keys(seed, position, 2)]
    assert len(set(found)) == 8


def one_pass(model, tokens):
    return jax.jit(lambda module, tokens: module({"tokens": tokens}, train=False)[0][0])(model.module, tokens[None])


@pytest.mark.parametrize(("size", "part"), [pytest.param(3, 1024, marks=pytest.mark.slow), (3 * LENGTH + 5, 4)])
def test_a_trained_run_foretells_the_same_with_its_cache(model, size, part, monkeypatch):
    """The prompt's logits and those of every token behind it are those of one pass over all of them."""
    monkeypatch.setattr("moejax.runs.generate._PART", part)
    tokens = of_text().test["tokens"].ravel()[: size + 20]
    whole = one_pass(model, tokens)
    logits, cache = model.writer._prompted(tokens[:size], 2)
    np.testing.assert_allclose(logits, np.stack([whole[size - 1]] * 2), atol=1e-5)
    for t in range(size, size + 20):
        logits, cache = model.writer.read(model.writer._arrays, np.full((2, 1), tokens[t]), cache)
        np.testing.assert_allclose(logits, np.stack([whole[t]] * 2), atol=1e-5)
    assert int(cache.length) == size + 20


def test_the_most_probable_tokens_are_those_of_whole_passes(model):
    prompt = "a\nb "
    tokens = [int(new[0]) for new in model.writer.write(prompt, tokens=25, temperature=0.0)]
    text = np.array([*prompt.encode(), *tokens], np.uint8)
    np.testing.assert_array_equal(one_pass(model, text).argmax(-1)[3:-1], tokens)
    assert model.generate(prompt, tokens=25, temperature=0.0, seed=9) == [bytes(tokens).decode("utf-8", "replace")]


def test_a_sample_is_the_same_among_others_and_another_by_another_seed(model):
    alone, two = model.generate("the ", tokens=30), model.generate("the ", tokens=30, samples=2)
    assert alone == two[:1]
    assert len({*two, *model.generate("the ", tokens=30, seed=1)}) == 3


def test_a_step_is_compiled_once_whatever_the_prompt_and_the_options(model):
    model.writer.step.clear_cache()
    for prompt, options in {"": {}, "the ": dict(temperature=0.0), "öä": dict(top_p=0.1, seed=3)}.items():
        model.generate(prompt, tokens=20, **options)
    assert model.writer.step._cache_size() == 1


def test_the_end_of_a_text_ends_it(model, monkeypatch):
    made = iter([[65, END], [END, 66], [67, 68]])

    def step(arrays, logits, cache, seed, how):
        return np.array(next(made)), logits, cache

    monkeypatch.setattr(model.writer, "step", step)
    assert [new.tolist() for new in model.writer.write("", samples=2)] == [[65, END], [END, END]]
    assert next(made) == [67, 68]  # it was not asked for


def test_whole_characters_are_told():
    told = Written(Bytes())
    assert [told.add(byte) for byte in "dö".encode()] == ["d", "", "ö"]
    assert [told.add(byte) for byte in (0xFF, 0xC3, ord("x"), 0xE2, 0x82)] == ["\ufffd", "", "\ufffdx", "", ""]
    assert told.add(END) == "\ufffd"
    assert (told.add(65), told.tokens, told.ended) == ("", 8, True)
    assert told.finished() == "dö\ufffd\ufffdx\ufffd"


def test_an_unfinished_character_is_told_to_a_page_too(model, monkeypatch):
    monkeypatch.setattr(model.writer, "write", lambda ids, **options: iter([np.array([0xC3])]))
    said = [{"text": ""}, {"text": "\ufffd"}, {"tokens": 1, "ended": False}]
    assert list(going_on(model, "a")) == said


def test_byte_pairs_write_text(tmp_path):
    saved_run(tmp_path / "run", text_config(depth=1, vocabulary=280), of_text(280), {1: None})
    model = moejax.runs.load(tmp_path / "run")
    tokens = [int(new[0]) for new in model.writer.write("cät", tokens=5)]
    assert max(tokens) < 280
    assert model.generate("cät", tokens=5) == [model.writer.tool.decode(tokens).decode("utf-8", "replace")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(tokens=0), "tokens is 0; write 1 to 1,000,000."),
        (dict(temperature=-0.5), "temperature is -0.5; give 0, which takes the most probable token, or more."),
        (dict(temperature=float("nan")), "temperature is nan; give 0"),
        (dict(top_p=0.0), "top_p is 0.0; give a share above 0, or 1 for all tokens."),
        (dict(top_p=1.5), "top_p is 1.5; give a share"),
        (dict(tokens=10**30), "tokens is 1000.*; write 1 to 1,000,000."),
        (dict(seed=-1), "seed is -1; give 0 to 4294967295."),
        (dict(samples=0), "samples is 0; write 1 to 1,024 at once."),
        (dict(prompt="a\0"), r"The text 'a\\x00' has a NUL in it, as no text has; leave it out."),
        (dict(prompt="a\udcff"), r"The text 'a\\udcff' is not Unicode that can be written as UTF-8."),
        (dict(prompt=[1, 256]), "The text holds the token 256; this model's are 0 to 255."),
        (dict(prompt=3.5), "The text is 3.5; give a string, or tokens as whole numbers"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(model, options, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        model.generate(**{"prompt": "a"} | options)
    assert len(raised.value.sentences) == 1


def test_a_model_that_writes_no_text_is_a_sentence():
    def writer(config, data):
        of = About.of(data.record, data.tokenizer)
        return Writer(config, of, empty(config, of))

    with pytest.raises(UserError, match="reads image, and writes no text; name a run such as text_sparse"):
        writer(make_config(name="bars", model=IMAGE, moe=dict(num_experts=2)), of_images())
    sees = dict(layer="sparse", num_experts=4, hidden=8, k=1, router="expert_choice", dispatch="gather", group_size=0)
    for moe, name in ((sees, "moe.router expert_choice"), (dict(layer="soft"), "moe.layer soft")):
        with pytest.raises(UserError, match=f"{name} sees tokens that come later, so that this model cannot write"):
            writer(text_config(moe), of_text())


def test_a_model_of_numbers_that_are_not_finite_says_so(run):
    model = moejax.runs.load(run)
    model.module.norm.scale[...] = jnp.full_like(model.module.norm.scale[...], jnp.nan)
    with pytest.raises(UserError, match="The model's logits are not finite"):
        model.generate("a", tokens=2)
    with pytest.raises(UserError, match="The model's answer is not finite, so that it says nothing; name another --ch"):
        reading(model, "abc")


def test_the_verb_prints_the_prompt_and_what_follows(run, model, capsys, monkeypatch):
    assert main(["generate", str(run), "--prompt", "the ", "--tokens", "20"]) == 0
    out, err = capsys.readouterr()
    assert out == f"the {model.generate('the ', tokens=20)[0]}\n"
    assert err.startswith("20 tokens, ")
    assert err.endswith(" tokens/s\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("dög".encode())))
    words = ["generate", str(run), "--prompt", "-", "--tokens", "9", "--samples", "2", "--seed", "5"]
    assert main(words) == 0
    first, second = model.generate("dög", tokens=9, samples=2, seed=5)
    assert capsys.readouterr().out == f"--- 1 of 2\ndög{first}\n--- 2 of 2\ndög{second}\n"


def test_the_verb_in_json(run, model, capsys):
    words = [
        "generate",
        str(run),
        "--prompt",
        "the ",
        "--tokens",
        "7",
        "--samples",
        "2",
        "--temperature",
        "1.5",
        "--json",
    ]
    assert main(words) == 0
    out, err = capsys.readouterr()
    facts, texts = json.loads(out), model.generate("the ", tokens=7, samples=2, temperature=1.5)
    assert err == ""
    assert [sample["text"] for sample in facts["samples"]] == texts
    assert facts.pop("tokens_per_second") > 0
    assert (facts["temperature"], facts["top_p"], facts["seed"], facts["step"]) == (1.5, 0.95, 0, model.step)


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [
        (["--temperature", "hot"], b"", "moejax generate: --temperature is 'hot', which is no number; see"),
        (["--tokens", "many"], b"", "moejax generate: --tokens is 'many', which is no whole number; see"),
        (["--prompt", "-"], b"a\xff", "Standard input is not UTF-8 text (byte 1); save it as UTF-8."),
        (["--prompt", "-"], b"a\0", r"The text 'a\x00' has a NUL in it"),
        (["--checkpoint", "7"], b"", "checkpoint is '7', but"),
        (["--top-p", "0"], b"", "top_p is 0.0; give a share"),
        (["--promt", "a"], b"", "unrecognized arguments: --promt a; did you mean --prompt?"),
    ],
)
def test_words_that_make_no_sense_are_a_sentence(run, words, stdin, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    assert main(["generate", str(run), *words]) == 2
    out, err = capsys.readouterr()
    assert sentence in err
    assert (out, len(err.splitlines())) == ("", 1)


@pytest.mark.slow
def test_nobody_who_reads_on_is_no_traceback(run):
    command = f"{sys.executable} -m moejax generate {run} --prompt abc --tokens 3000 | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("abc")
    assert "Traceback" not in done.stderr
