"""`moejax serve` of a language model: what is typed is read by its tokens, and gone on with."""

import itertools
import json

import numpy as np
import pytest
from runs.test_generate import of_text, text_config
from serving import acted, asked, said, served
from small_run import saved_run

import moejax
from moejax.data.text_tokens import END
from moejax.errors import UserError
from moejax.runs.opening import alone, under
from moejax.serve.page import page
from moejax.serve.question import to_go_on
from moejax.serve.service import Service
from moejax.serve.settings import Setting


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """The service of a run on text, and its port."""
    path = tmp_path_factory.mktemp("runs") / "words"
    saved_run(path, text_config(depth=1), of_text(), {1: None})
    service = Service(moejax.runs.load(path), "words")
    with served(service) as port:
        yield service, port


def lines(port, **wish):
    status, _, content = asked(port, wish, path="/api/generate")
    assert status == 200, content
    *steps, last = map(json.loads, content.splitlines())
    return "".join(step["text"] for step in steps), last


@pytest.mark.parametrize("text", ["the dög", "the cat sat on the mat, and there was another one"])
def test_each_token_has_what_it_cost_and_its_experts(writer, text):
    service, port = writer
    prediction, routes = moejax.runs.Model.answer(service.variants(service.variants.own), text)
    ids = np.frombuffer(text.encode(), np.uint8)
    found = said(port, {"text": text})
    assert len(found["tokens"]) == len(found["texts"]) == len(found["bits"]) == len(ids)
    assert "".join(found["texts"]).replace("·", "") == text
    assert found["bits"][0] is None
    want = -np.log2(prediction.probabilities[0, np.arange(len(ids) - 1), ids[1:]])
    np.testing.assert_allclose(found["bits"][1:], want, atol=2e-3)
    best = int(prediction.classes[0, len(ids) - 1])
    assert found["probability"] == pytest.approx(float(prediction.probabilities[0, len(ids) - 1, best]), abs=1e-5)
    for layer, route in zip(found["layers"], routes, strict=True):
        assert len(layer["experts"]) == len(ids)
        for t, of_token in enumerate(layer["experts"]):
            np.testing.assert_allclose([w for _, w in of_token], route.gates[0, t, [e for e, _ in of_token]], atol=1e-3)
            assert len(of_token) == 2
    assert found["k"] == 2
    assert all(len(of) == 1 for of in said(port, {"text": text, "k": 1})["layers"][0]["experts"])


def test_another_k_of_a_run_that_drops_nothing_drops_nothing(writer):
    """All tokens of a text of one letter go to few experts."""
    service, port = writer
    text, model = "#" * 60, service.variants(service.variants.own)
    assert service.variants.own.capacity_factor is None
    one = under(alone(model.config).replace(moe={"k": 1}), model)
    prediction, _ = moejax.runs.Model.answer(one, text)
    found = said(port, {"text": text, "k": 1})
    want = -np.log2(prediction.probabilities[0, np.arange(59), ord("#")])
    np.testing.assert_allclose(found["bits"][1:], want, atol=2e-3)
    assert all(all(layer["experts"]) for layer in found["layers"])


def test_of_a_long_text_it_says_what_is_read(writer):
    _, port = writer
    assert said(port, {"text": "漢" * 700})["notes"] == ["of 2,100 tokens the last 2,048 are read"]
    assert said(port, {"text": "a"})["notes"] == []


def test_nothing_typed_is_the_beginning_of_a_text(writer):
    service, port = writer
    found = said(port, {"text": ""})
    assert found["tokens"] == found["bits"] == found["layers"][0]["experts"] == []
    prediction, _ = service.variants(service.variants.own).answer(np.array([END], np.uint8))
    assert found["probability"] == pytest.approx(float(prediction.probabilities.max()), abs=1e-5)


def test_a_text_goes_on_as_the_model_writes(writer):
    service, port = writer
    want = service.variants(service.variants.own).generate("the ", tokens=12, temperature=0.0, seed=1)
    text, last = lines(port, text="the ", tokens=12, temperature=0, seed=1)
    whole = want[0].rstrip("\ufffd")  # a letter that is not whole is not told
    assert text.rstrip("\ufffd") == whole
    assert last["tokens"] <= 12
    steps = service.go_on(moejax.serve.question.to_go_on(b'{"text": "", "tokens": 500}', service.variants.own))
    assert list(itertools.islice(steps, 2))  # whoever asked may leave, and others are answered meanwhile
    said(port, {"text": "a"})


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("predict", {"text": 3}, "text is 3; it must be a string"),
        ("predict", {"text": "a\0"}, "has a NUL in it"),
        ("predict", {"text": "x" * 2001}, "The text has 2,001 characters; give 2,000 at most."),
        ("predict", {"texts": ["a", "b"]}, "did you mean text?"),
        ("predict", {"text": "a", "capacity_factor": 2}, "capacity_factor is for inputs that are whole"),
        ("predict", {"text": "a", "k": 9}, "9"),
        ("generate", {"text": "a", "tokens": 0}, "tokens is 0; write 1 to 1,000,000."),
        ("generate", {"text": "a", "tokens": True}, "tokens is True; it must be a whole number."),
        ("generate", {"text": "a", "temperature": "hot"}, "temperature is 'hot'; it must be a number."),
        ("generate", {"text": "a", "top_p": 2}, "top_p is 2"),
        ("generate", {"text": "a", "top_k": 2}, "did you mean top_p?"),
        ("generate", {}, "The question has no 'text'"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(writer, path, body, sentence):
    status, _, content = asked(writer[1], body, path=f"/api/{path}")
    assert status == 400
    assert sentence in json.loads(content)["error"]


def test_what_the_run_is(writer):
    _, _, content = asked(writer[1], path="/api/run", method="GET")
    about = json.loads(content)
    assert about["reads"] == "text"
    assert list(about["settings"]) == ["k"]


def test_a_model_that_sees_later_tokens_is_not_served(tmp_path):
    saved_run(tmp_path / "run", text_config(dict(layer="soft", num_experts=2, hidden=8)), of_text(), {1: None})
    with pytest.raises(UserError, match="soft sees tokens that come later"):
        Service(moejax.runs.load(tmp_path / "run"), "soft")


TYPE = """
  const $$ = selector => [...document.querySelectorAll(selector)], note = document.body.dataset;
  when(() => $$(".next").length, () => {
    const text = document.getElementById("text");
    text.value = "the c\\n";
    text.dispatchEvent(new Event("input"));
    when(() => $$(".code i").length === 6, () => {
      note.overflow = document.documentElement.scrollWidth - innerWidth;
      note.seen = $$(".code")[0].textContent;
      note.number = $$(".code i")[0].style.getPropertyValue("--n");
      $$(".code i")[5].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
      document.querySelector('button[value="bits"]').click();
      note.label = $$(".code i")[4].ariaLabel;
      note.bits = document.querySelector(".note + *, article .note").textContent;
      document.getElementById("on").click();
      when(() => text.value.length > 8, () => {
        note.more = text.value.startsWith("the c\\n");
        done();
      });
    });
  });
"""


@pytest.mark.parametrize("width", [1200, pytest.param(500, marks=pytest.mark.slow)])
def test_code_is_typed_in_a_browser_and_gone_on_with(browser, writer, tmp_path, width):
    document, console = acted(browser, writer[0], page("words", 4).html, TYPE, tmp_path / "profile", width)
    assert console == []
    assert 'data-overflow="0"' in document
    assert 'data-seen="the c⏎\n"' in document
    assert 'data-number="&quot;' in document
    assert 'data-label="c: ' in document
    assert " bits, foretold with " in document
    assert " on average." in document
    assert 'data-more="true"' in document


@pytest.mark.parametrize(
    ("own", "takes"), [(None, "text, tokens, "), (Setting(2, None), "text, k, tokens, ")], ids=["soft", "sparse"]
)
def test_a_strange_part_is_answered_with_those_that_there_are(own, takes):
    with pytest.raises(UserError, match=rf"^'xyzzy' is no part of a question; this run takes {takes}") as raised:
        to_go_on(b'{"text": "a", "xyzzy": 1}', own)
    assert "capacity_factor" not in str(raised.value)
