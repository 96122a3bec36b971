"""`moejax predict`: what it says of pictures and sentences is what the model says, and bad input is a sentence."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from runs.test_model import IMAGE, RUNS, SPARSE, of_images, of_pairs, of_points
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.config import make_config
from moejax.runs import blocks
from moejax.runs.ask import image_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    saved_run(path, make_config(name="bars", model=IMAGE, moe=SPARSE), of_images(), {1: 0.9, 2: 0.3})
    return str(path)


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pairs"
    saved_run(path, make_config(name="pairs", **RUNS["pairs"][1]), of_pairs(), {1: None})
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the first three test images, one of them large and inverted."""
    folder = tmp_path_factory.mktemp("pictures")
    images = of_images().test["image"] // 64 * 85  # a dark ground
    for n, image in enumerate(images[:2]):
        Image.fromarray(image).save(folder / f"{n}.png")
    paper = np.full((90, 80, 3), 255, np.uint8)
    paper[20:70, 30:38] = 10
    Image.fromarray(paper).save(folder / "large.jpg")
    return folder, images


def said(words, capsys):
    assert main(["predict", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_pictures_in_json_have_the_models_answers(run, pictures, capsys):
    folder, images = pictures
    prediction, (route,) = moejax.runs.load(run).answer(images[:2])
    found = json.loads(said([run, folder, "--json", "--top", 2], capsys))
    assert [one["input"] for one in found] == [str(folder / name) for name in ("0.png", "1.png", "large.jpg")]
    for n, one in enumerate(found[:2]):
        assert one["class"] == str(prediction.classes[n])
        assert one["probability"] == pytest.approx(prediction.probabilities[n].max(), abs=1e-6)
        assert len(one["top"]) == 2
        (layer,) = one["layers"]
        np.testing.assert_allclose(layer["gates"], route.gates[n], atol=2e-6)
        np.testing.assert_array_equal(layer["experts"], route.experts[n])
        np.testing.assert_array_equal(layer["slots"], route.slots[n])
        assert sum(layer["shares"]) == pytest.approx(1, abs=1e-5)
    assert found[2]["notes"] == ["dark ink on light paper was inverted"]


def test_pictures_in_the_terminal_have_class_notes_and_maps(run, pictures, capsys):
    text = said([run, pictures[0] / "large.jpg", "--checkpoint", "best"], capsys)
    first, note, *rest = text.splitlines()
    assert first.startswith(f"{pictures[0] / 'large.jpg'}: ")
    assert first.count("%") == 3
    assert note == "  note: dark ink on light paper was inverted"
    assert sum("█" in line for line in rest) > 5
    assert "layer 0, sparse, each expert's weight" in rest
    assert any(line.startswith("expert 0 ") for line in rest)


def test_a_picture_by_standard_input(run, pictures, capsys, monkeypatch):
    folder, _ = pictures
    content = (folder / "0.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    (one,) = json.loads(said([run, "-", "--json"], capsys))
    (same,) = json.loads(said([run, folder / "0.png", "--json"], capsys))
    assert one == same | {"input": "standard input"}


def test_a_figure_is_drawn(run, pictures, capsys, tmp_path):
    said([run, pictures[0], "--figure", tmp_path / "looks.png"], capsys)
    with Image.open(tmp_path / "looks.png") as figure:
        assert figure.width > 1000


def test_pairs_as_words_and_as_lines_are_the_same(pairs_run, capsys, monkeypatch):
    words = ["the cat sat", "the dog ran", "red hat", "a blue mat"]
    found = json.loads(said([pairs_run, *words, "--json"], capsys))
    assert [one["input"] for one in found] == ["the cat sat | the dog ran", "red hat | a blue mat"]
    lines = "the cat sat\tthe dog ran\r\n\nred hat\ta blue mat"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert json.loads(said([pairs_run, "-", "--json"], capsys)) == found
    assert "  second sentence  expert " in said([pairs_run, *words[:2]], capsys)


def test_of_several_tasks_each_is_answered_and_each_gate_shown(tmp_path, pictures, capsys):
    make, values = RUNS["tasks"]
    saved_run(tmp_path / "run", make_config(name="tasks", **values), make(), {1: None})
    text = said([tmp_path / "run", pictures[0] / "0.png"], capsys).splitlines()
    name = str(pictures[0] / "0.png")
    assert [line.split()[1] for line in text if line.startswith(name)] == ["digit", "parity"]
    assert text[1].count("%") == 2  # of two classes
    assert [line.split(",")[0] for line in text if line.startswith("gate of ")] == ["gate of digit", "gate of parity"]
    assert sum(line.startswith("  all of it  expert ") for line in text) == 2
    (one,) = json.loads(said([tmp_path / "run", pictures[0] / "0.png", "--json"], capsys))
    assert [task["task"] for task in one["tasks"]] == ["digit", "parity"]
    assert len(one["layers"]) == 2


def test_points_are_no_words(tmp_path, capsys):
    saved_run(tmp_path / "run", make_config(name="points", **RUNS["points"][1]), of_points(), {1: None})
    assert main(["predict", str(tmp_path / "run"), "x"]) == 2
    assert "The model of this run reads patches, which are no words of a command line" in capsys.readouterr().err


def huge(folder):
    header = b"P5\n90000 90000\n255\n"
    (folder / "huge.pgm").write_bytes(header + bytes(99))
    return folder / "huge.pgm"


def large(folder):
    Image.new("1", (9000, 9000)).save(folder / "large.png")
    return folder / "large.png"


def broken(folder):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100), dtype=np.uint8)).save(file, "png")
    (folder / "broken.png").write_bytes(file.getvalue()[:3000])
    return folder / "broken.png"


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def text(folder):
    (folder / "text.png").write_text("%!PS\n")
    return folder / "text.png"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none.png", "none.png cannot be read (No such file or directory)"),
        (large, "has 9,000 × 9,000 pixels, more than 67,108,864: make it smaller"),
        (broken, "broken.png cannot be read as a picture (image file is truncated"),
        (huge, "huge.pgm has more than 67,108,864 pixels: make it smaller."),
        (text, "text.png cannot be read as a picture (it is none of PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM): leave"),
        (empty, "empty has no pictures in it; their names end in .bmp, "),
        (lambda folder: "\0", "A picture is '\\x00', which can be no path"),
    ],
)
def test_a_picture_that_is_none_is_a_sentence(run, pictures, tmp_path, make, sentence, capsys):
    assert main(["predict", run, str(pictures[0]), str(make(tmp_path))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "moejax predict: the following arguments are required: INPUT"),
        (["x.png", "--top", "0"], "--top is 0; list one class at least"),
        (["x.png", "--top", "all"], "moejax predict: --top is 'all', which is no whole number; see"),
        (["x.png", "--checkpoint", "newest"], "checkpoint is 'newest', but"),
        (["x.png", "--figure", ""], "--figure is '', which can be no path"),
        (["x.png", "--figure", "x.svg"], "--figure is x.svg, but the figure is a PNG; let the name end in .png"),
        (["x.png", "--figure", "no/x.png"], "Cannot write to --figure no/x.png: no: No such file or directory."),
        (["x.png", "--chekpoint", "1"], "unrecognized arguments: --chekpoint 1; did you mean --checkpoint?"),
    ],
)
def test_words_that_make_no_sense_are_a_sentence(run, words, sentence, capsys):
    assert main(["predict", run, *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [
        (["a cat"], b"", "'a cat', the last sentence, has no other one"),
        (["-", "a"], b"", "- stands for all pairs"),
        (["-"], b"", "Standard input has no pairs"),
        (["-"], b"a cat\n", "Line 1 of standard input is 'a cat'; write two sentences, a<TAB>b"),
        (["-"], b"a\tb\xff", "Standard input is not UTF-8 text (byte 3)"),
        (["a", " "], b"", "Pair 0 holds an empty sentence"),
        (["a", "b", "--figure", "x.png"], b"", "no tokens of this run's model lie on a picture; leave it out"),
    ],
)
def test_pairs_that_are_none_are_a_sentence(pairs_run, words, stdin, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    assert main(["predict", pairs_run, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_picture_in_letters_is_no_paler_at_its_edges():
    assert set("".join(blocks.picture(np.full((30, 30), 255)))) == {"█"}


def test_blocks_by_hand():
    assert blocks.shaded(np.array([[0.0, 0.5], [1.0, 2.0]]), 1.0) == [" ▒", "██"]
    assert blocks.beside([("a", ["12345"]), ("bc", ["1", "2"])], 20) == ["a      bc", "12345  1", "       2"]
    assert blocks.beside([("a", ["12345"]), ("bc", ["1"])], 8) == ["a", "12345", "", "bc", "1"]
    image = np.zeros((4, 4), np.uint8)
    image[2:, 1] = 255
    assert blocks.picture(image) == ["    ", " █  "]
    assert blocks.picture(np.repeat(image[..., None], 3, axis=2), columns=2) == ["░ "]
    maps = np.array([[[1.0, 0.0]], [[0.0, 0.5]]])
    assert blocks.by_expert(maps, np.array([0.6, 0.4]), 80) == ["expert 0 60%  expert 1 40%", "██··          ··▒▒"]
    many = blocks.by_expert(np.ones((10, 1, 1)), np.array([0.05, *[0.1] * 8, 0.15]), 400)
    assert many[0].split("  ")[0] == "expert 1 10%"
    assert many[0].endswith("expert 7 10%  expert 9 15%")
    assert many[2] == "and 2 more experts, 15% together"


def test_every_mode_of_a_picture_is_the_same_image(run):
    """A gap in paper that is transparent is white; 16 bits are scaled, not cut off."""
    paper = np.full((60, 50), 255, np.uint8)
    paper[10:50, 20:26] = 0
    grey, model = Image.fromarray(paper), moejax.runs.load(run)
    clear = Image.new("RGBA", grey.size)
    clear.paste((0, 0, 0, 255), mask=Image.fromarray(255 - paper))
    pictures = {mode: grey.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    pictures |= {"clear": clear, "I;16": Image.fromarray(paper.astype(np.uint16) * 257)}
    images = {}
    for mode, picture in pictures.items():
        file = io.BytesIO()
        picture.save(file, "TIFF" if mode == "CMYK" else "PNG")
        images[mode], notes = image_of(model, file.getvalue(), mode)
        assert notes == ["dark ink on light paper was inverted"]
    for image in images.values():
        np.testing.assert_array_equal(image, images["L"])
