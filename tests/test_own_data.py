"""The README's three commands for digits of one's own, on pictures made here: as a reader types them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from moejax.__main__ import main

README = Path(__file__).parent.parent / "moejax" / "data" / "README.md"


def pictures(folder, count=16):
    """A bar whose place tells the class: drawn dark on light, in several sizes."""
    rng, place = np.random.default_rng(0), int(folder.name)
    for i in range(count):
        pixels = rng.integers(180, 256, (40 + i % 3, 40), np.uint8)
        pixels[2 + 3 * place : 7 + 3 * place] = rng.integers(0, 40)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_three_commands_from_pictures_to_an_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").partition("## Your own data")[2]
    make, train, look = map(shlex.split, re.search(r"```sh\n(.*?)\n```", section, re.DOTALL)[1].splitlines())
    assert make[:2] == ["mkdir", "-p"]
    for name in make[2:]:
        Path(name).mkdir(parents=True)
        pictures(Path(name))
    assert train[:3] == ["python", "-m", "moejax.run"]
    assert main(["run", *train[3:]]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "The pictures, of 3 sizes, are resized to 28 × 28 (--data.size)." in said
    data = json.loads(Path("runs/digits/data.json").read_text())
    assert (data["classes"], data["examples"]) == (list("0123456789"), {"train": 110, "validation": 20, "test": 30})
    assert json.loads(Path("runs/digits/summary.json").read_text())["test_accuracy"] > 0.5
    assert look[:3] == ["python", "-m", "moejax"]
    assert main(look[3:]) == 0
    assert capsys.readouterr().out.startswith("digits/7/0.png: 7")
