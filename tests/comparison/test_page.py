"""The page of a comparison, and the verb that makes it."""

import json
import re

import pytest
from chromium import PROBE, visit
from comparison.side_by_side import change, write
from report.synthetic import write_run

from moejax.__main__ import main
from moejax.comparison import compare
from moejax.comparison.page import ORDER, draw


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = [write(folder / name, wrong) for name, wrong in (("one", [0, 1, 2]), ("two", [2, 3]), ("three", []))]
    change(found[1] / "config.json", seed=1)
    return found


@pytest.fixture(scope="module")
def page(runs):
    return draw(compare(runs), runs[0].parent / "comparison.html")


def test_the_page_has_everything_and_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == list(ORDER)
    assert text.count("data:image/png") == 3
    assert not re.search(r"""<[^>]*\s(src|href|action)\s*=\s*["']?+(?!data:|#)""", text)
    assert not re.search(r"url\(|@import|<script|<iframe|<object|<form", text)


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_whole_in_a_browser(browser, page, tmp_path, width):
    probed = tmp_path / "probed.html"
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", page.read_text(encoding="utf-8"))
    probed.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    document, console = visit(browser, probed, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    assert 'data-pictures="3"' in document
    assert 'data-overflow="0"' in document
    assert console == []


def test_text_of_the_runs_is_escaped(tmp_path):
    runs = [write(tmp_path / "<b>one", [0]), write(tmp_path / "two", [0])]
    change(runs[0] / "config.json", name="<script>alert(1)</script>")
    change(runs[0] / "summary.json", notes=["<img src=x>"])
    text = draw(compare(runs), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;b&gt;one" in text
    assert "<img src=x>" not in text


def test_a_name_that_is_no_utf_8_is_seen_as_its_bytes(tmp_path):
    runs = [write(tmp_path / name, [0]) for name in ("od\udcff", "two")]
    assert "od\\xff" in draw(compare(runs), tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_that_recorded_nothing_still_make_a_page(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    text = draw(compare([tmp_path / "one", tmp_path / "two"]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == ["accuracy", "differences"]


def test_the_verb(runs, tmp_path, capsys):
    words = [str(run) for run in runs]
    assert main(["compare", *words, "--out", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "A  B            1             2  1.00" in said
    assert f"page: {tmp_path / 'page.html'}" in said
    assert main(["compare", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {"seed": ["0", "1", "0"]}
    assert found["page"] == str(runs[0].parent / "comparison.html")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "moejax compare: the following arguments are required: RUN"),
        (["nowhere", "nothing"], "nowhere is not a run folder: it has no config.json"),
        (["--out", "", "a", "b"], "--out is '', which can be no path."),
    ],
)
def test_what_makes_no_sense_is_a_sentence(words, said, capsys):
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_sentence(runs, tmp_path, capsys):
    write_run(tmp_path / "run")
    page = tmp_path / "no" / "page.html"
    assert main(["compare", *map(str, runs), "--out", str(page)]) == 2
    err = capsys.readouterr().err
    assert err == f"moejax: Cannot write to --out {page}: {page.parent}: No such file or directory.\n"


def test_a_page_that_the_disk_has_no_room_for_leaves_the_tables(runs, tmp_path, monkeypatch, capsys):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert "A  B            1             2  1.00" in out
    assert err == f"moejax: {tmp_path / 'page.html'}: No space left on device.\n"
