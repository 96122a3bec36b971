"""The report of a language model: tokens in place of images and labels."""

import re

import numpy as np
import pytest
from chromium import PROBE, visit
from synthetic_text import PAIRS, TEXT, routing, tokenizer, write_text_run

from moejax.report import render
from moejax.report.likes import Liked, lift, liked
from moejax.report.record import read

FIGURES = {"curves", "load", "gate", "experts_by", "map"}


def seen(text: str) -> str:
    """What the coloured text says, without signs of what cannot be seen and without the notes."""
    code = re.search(r'<div class="code".*?>(.*?)</div>', text, re.DOTALL)[1]
    code = re.sub(r"<span>.*?</span>", "", code)
    return re.sub(r"<.*?>", "", re.sub(r"<s>.*?</s>", "", code))


def test_lift_by_hand():
    table = np.array([[6.0, 2.0], [0.0, 8.0], [0.0, 0.0]])
    np.testing.assert_allclose(lift(table), [[0.75 / (6 / 16), 0.25 / (10 / 16)], [0, 1 / (10 / 16)], [0, 0]])
    assert (lift(np.full((3, 4), 2.5)) == 1).all()


def test_rare_tokens_and_small_lifts_are_not_told():
    table = np.array([[19.0, 0.0], [30.0, 0.0], [10.0, 60.0], [40.0, 30.0]])
    first, second = liked(table)
    assert first == [Liked(1, pytest.approx(189 / 99), 1.0)]
    assert [one.token for one in second] == [2]


def test_the_page_speaks_of_tokens_and_not_of_images_or_labels(tmp_path):
    run = write_text_run(tmp_path / "run")
    text = render(run).read_text(encoding="utf-8")
    assert {path.stem for path in (run / "figures").iterdir()} == FIGURES
    words = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bimages\b|\ban image\b|\bpatch|Which expert sees which label", words)
    assert 'id="absent"' not in text
    assert "2.164<small> bits a byte</small>" in text
    assert "on held-out text; the next token is right 51.2% of the time, the most frequent one 18.0%" in text
    assert "in Layer 0 the token 90%, the next token 20% and the position 1%; in Layer 1 the token 50%" in text
    assert "The gate&#x27;s entropy ends at 0.60 of 1.39 nats: it decides; nothing is dropped." in text
    assert "Nothing ails" in text
    assert not re.search(r"<script|url\(|@import|(src|href)=\"(?!data:|#)", text)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_text_is_the_held_out_one_with_its_white_space(tmp_path, pairs):
    text = render(write_text_run(tmp_path / "run", pairs=pairs)).read_text(encoding="utf-8")
    # The first byte of é is a part of a letter, and a NUL ends a line.
    want = TEXT.decode().replace("é", "·é").replace("\0", "\n").replace("<b>", "&lt;b&gt;").replace("'", "&#x27;")
    tokens = routing(layers=1, experts=2)["sample_tokens"]
    assert want.startswith(seen(text))
    assert text.count('tabindex="0"') == tokens.size
    assert text.count(" first") >= len(tokens)
    assert "first of its window: not foretold" in text
    token = ord("d")  # in layer 0 expert 0, in layer 1 expert 1
    assert re.search(rf'class="q\d a{token % 4} aw7 b{(token + 1) % 4} bw7"[^>]*>d<span><b>d</b> \d\.\d\d bits', text)
    assert "Layer 0: expert 0 0.70, expert 1 0.30<br>Layer 1: expert 1 0.70, expert 2 0.30" in text


def test_byte_pairs_are_told_by_name_and_where_the_tokenizer_is_lost_by_number(tmp_path):
    run = write_text_run(tmp_path / "run", pairs=True)
    arrays = routing(layers=2, experts=4)
    arrays["sample_tokens"] = np.where(arrays["sample_tokens"] == ord("d"), 256, arrays["sample_tokens"].astype(int))
    np.savez(run / "routing.npz", **arrays)
    assert read(run).tokenizer == tokenizer()
    assert read(run).pieces[256:] == PAIRS[256:]
    assert "<b>def</b>" in render(run).read_text(encoding="utf-8")
    (run / "checkpoints" / "100" / "tokenizer.json").write_text("{}")
    assert "⟨256⟩" in render(run).read_text(encoding="utf-8")


def test_what_experts_like_is_named(tmp_path):
    text = render(write_text_run(tmp_path / "run")).read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row"><i style="--colour: var\(--expert-(\d)\)">', text)
    assert rows == [*"0123"] * 2
    liked = re.search(r'<div class="panels">(.*?)</section>', text, re.DOTALL)[1]
    assert "<b>␣</b>×" in liked
    assert "<b>0xc3</b>×" not in liked  # 12 times: too rare


def test_one_expert_has_a_text_by_bits_alone(tmp_path):
    run = write_text_run(tmp_path / "run", experts=1)
    text = render(run).read_text(encoding="utf-8")
    assert {path.stem for path in (run / "figures").iterdir()} == {"curves"}
    assert re.findall(r"<label.*?>(.*?)</label>", text) == ["Bits"]
    assert "entropy" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_largest_run_has_a_page_of_less_than_three_megabytes(tmp_path):
    run = write_text_run(tmp_path / "run", layers=12, experts=64)
    arrays = routing(layers=12, experts=64)
    many = {name: np.tile(a, (40, *[1] * (a.ndim - 1))) for name, a in arrays.items() if name.startswith("sample")}
    np.savez(run / "routing.npz", **arrays | many)
    text = render(run).read_text(encoding="utf-8")
    assert len(text.encode()) < 3e6
    assert text.count('tabindex="0"') <= 2000
    assert len(re.findall(r"<label", text)) == 8 + 1 + 8


def test_an_unfinished_run_says_what_it_has(tmp_path):
    run = write_text_run(tmp_path / "run")
    for name in ("summary.json", "routing.npz", "data.json"):
        (run / name).unlink()
    text = render(run).read_text(encoding="utf-8")
    assert "3.030<small> bits a byte</small>" in text  # 2.1 nats
    assert "on validation text at step 100; not tested yet" in text
    assert "What each expert likes: the run recorded no content_expert, label_expert." in text


# Presses the buttons, and looks at a token: what is seen then is written into the document.
PRESS = """<script>addEventListener("load", () => {
  const seen = element => element.getClientRects().length > 0;
  const all = selector => [...document.querySelectorAll(selector)];
  const colour = () => getComputedStyle(all(".code i")[1]).backgroundColor, before = colour();
  document.getElementById("held-out-by-1").click();
  const tables = () => all(".panels > *").map(seen).join();
  document.body.dataset.changed = colour() !== before;
  document.body.dataset.first = tables();
  document.getElementById("likes-of-1").click();
  document.body.dataset.second = tables();
  document.body.dataset.notes = all(".code i > span").filter(seen).length;
  all(".code i")[5].focus();
  document.body.dataset.focused = all(".code i > span").filter(seen).length;
})</script>"""


@pytest.mark.parametrize("width", [1200, 500])
def test_buttons_switch_and_a_token_tells_of_itself_in_a_browser(browser, tmp_path, width):
    report = render(write_text_run(tmp_path / "run"))
    probed = tmp_path / "probed.html"
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", report.read_text(encoding="utf-8"))
    probed.write_text(text.replace("</body>", PRESS + PROBE), encoding="utf-8")
    document, console = visit(browser, probed, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    assert console == []
    assert 'data-overflow="0"' in document
    assert 'data-changed="true"' in document
    assert 'data-first="true,false"' in document
    assert 'data-second="false,true"' in document
    assert 'data-notes="0"' in document
    assert 'data-focused="1"' in document
