"""The whole report, of runs of every kind and in every state."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from seldom import slow_but_for
from synthetic import routing, write_run

from moejax.__main__ import main
from moejax.report import render
from moejax.report.record import read
from moejax.report.sections import SECTIONS

EVERYWHERE = {section.name for section in SECTIONS if not section.only} - {"film"}  # which is of the page alone


def drawn(run) -> set[str]:
    return {path.stem for path in (run / "figures").glob("*.png")}


def assert_not_blank(path) -> None:
    pixels = imread(path)[..., :3]
    assert pixels.shape[1] == 1350, path
    assert pixels.std() > 0.02, path


def assert_self_contained(text: str) -> None:
    assert not re.search(r"""<[^>]*\s(src|href|action)\s*=\s*["']?+(?!data:|#)""", text)
    assert not re.search(r"url\(|@import|<script|<iframe|<object|<form", text)


@pytest.mark.parametrize("layer", ["soft", "sparse", pytest.param("dense", marks=pytest.mark.slow)])
def test_every_figure_is_drawn_and_the_page_needs_nothing_else(tmp_path, layer):
    run = write_run(tmp_path / "run", layer)
    report = render(run)
    assert report == run / "report.html"
    assert drawn(run) == EVERYWHERE | ({"dispatch"} if layer == "soft" else set())
    for path in (run / "figures").iterdir():
        assert_not_blank(path)
    text = report.read_text()
    assert_self_contained(text)
    assert "not comparable with the 10,000-image test" in text
    assert 'id="absent"' not in text
    assert not list(run.rglob(".*")), "temporary files were left behind"


def test_text_of_the_run_is_escaped(tmp_path):
    run = write_run(tmp_path / "run", finished=False, name="<script>alert('x')</script>$name")
    (run / "summary.json").write_text(json.dumps({"notes": ["<b>bold</b>"], "device": "<img src=x>"}))
    text = render(run).read_text()
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;$name" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<img src=x>" not in text
    assert_self_contained(text)


def test_interrupted_run_shows_what_there_is(tmp_path):
    run = write_run(tmp_path / "run", "sparse", finished=False)
    text = render(run).read_text()
    assert drawn(run) == {"curves", "load", "gate"}
    assert "not tested yet" in text
    assert "interrupted" in text
    assert "Which expert sees which label: the run recorded no label_expert." in text


def test_a_run_that_wrote_nothing_but_its_configuration(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = render(tmp_path).read_text()
    assert drawn(tmp_path) == set()
    assert "no accuracy was measured" in text


def test_a_section_is_drawn_from_what_it_needs_and_nothing_else(tmp_path):
    run = write_run(tmp_path / "run", layers=1, experts=2)
    arrays = routing("soft", layers=1, experts=2, samples=2, evaluations=2)
    for section in SECTIONS:
        for one in section.one_of or ("",):
            needed = {*section.needs, one} & set(arrays)
            np.savez(run / "routing.npz", **{key: arrays[key] for key in needed})
            record = read(run)
            assert not section.missing(record)
            section.draw(record)
        for absent in set(section.needs) & set(arrays):
            np.savez(run / "routing.npz", **{key: value for key, value in arrays.items() if key != absent})
            assert absent in section.missing(read(run))


def test_nan_everywhere_does_not_break_the_page(tmp_path):
    run = write_run(tmp_path / "run", layers=1, experts=3)
    arrays = routing("soft", layers=1, experts=3)
    holes = {key: np.full_like(a, np.nan) if a.dtype.kind == "f" else a for key, a in arrays.items()}
    np.savez(run / "routing.npz", **holes)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(re.sub(r'"(loss|accuracy)": [\d.e-]+', r'"\1": NaN', text))
    render(run)
    assert drawn(run) == EVERYWHERE | {"dispatch"}


@pytest.mark.parametrize(("layers", "experts"), slow_but_for([(1, 1), (12, 64)], (1, 1)))
def test_smallest_and_largest(tmp_path, layers, experts):
    run = write_run(tmp_path / "run", layers=layers, experts=experts)
    text = render(run).read_text()
    assert drawn(run) == (EVERYWHERE | {"dispatch"}) - ({"map"} if experts == 1 else set())
    assert ("1 expert<" if experts == 1 else "64 experts") in text


def test_what_a_killed_report_left_half_written_goes(tmp_path):
    run = write_run(tmp_path / "run", "sparse", finished=False)
    (run / "figures").mkdir()
    for file in (run / ".report.html.0123abcd.partial", run / "figures" / ".load.png.0123abcd.partial"):
        file.write_bytes(b"half")
    render(run)
    assert not list(run.rglob("*.partial"))


def test_text_pairs_have_no_images(tmp_path):
    run = write_run(tmp_path / "run", "sparse")
    whole = routing("sparse", layers=2, experts=8)
    arrays = {key: whole[key] for key in ("step", "load", "gate_entropy", "dropped")}
    arrays |= {"label_expert": whole["label_expert"][:, :2], "confusion": np.array([[90, 7], [0, 40]])}
    np.savez(run / "routing.npz", **arrays)
    text = render(run).read_text()
    assert drawn(run) == {"curves", "load", "gate", "labels", "confusion"}
    assert "7 errors out of 137" in text


def test_pictures_in_colour_of_any_shape_and_names_of_classes(tmp_path):
    run = write_run(tmp_path / "run", layers=1, experts=3)
    arrays = routing("soft", layers=1, experts=3)
    for key in ("sample_image", "top_image"):
        arrays[key] = np.stack([arrays[key][..., 4:, :]] * 3, axis=-1)
    np.savez(run / "routing.npz", **arrays)
    (run / "data.json").write_text(json.dumps({"classes": [f"kind {name} of thing" for name in "abcdefghij"]}))
    record = read(run)
    assert record.routing["sample_image"].shape[1:] == (24, 28, 3)
    assert (record.label_name(1), record.label_name(10)) == ("kind b of t…", "10")
    render(run)
    assert drawn(run) == EVERYWHERE | {"dispatch"}


def test_rendering_again_removes_figures_that_no_longer_hold(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    render(run)
    (run / "metrics.jsonl").unlink()
    (run / "routing.npz").unlink()
    render(run)
    assert drawn(run) == set()


def test_command_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", finished=False)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "required: RUN" in capsys.readouterr().err


def test_command_line_prints_no_traceback(tmp_path):
    command = [sys.executable, "-m", "moejax", "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
