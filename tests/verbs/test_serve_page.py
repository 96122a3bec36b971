"""The live page in a browser: drawn on, pushed and whole in itself."""

import re

import numpy as np
import pytest
from chromium import visit
from serving import acted, asked, images, run  # noqa: F401

from moejax.serve.page import page

DRAW = """
  const pad = document.getElementById("pad");
  const at = (kind, x, y) => {
    const box = pad.getBoundingClientRect();
    const where = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
    pad.dispatchEvent(new PointerEvent(kind, where));
  };
  when(() => pad.offsetWidth, () => {
    at("pointerdown", 0.5, 0.2);
    for (let n = 1; n <= 12; n += 1) at("pointermove", 0.5 - 0.01 * n, 0.2 + 0.05 * n);
    at("pointerup", 0.38, 0.8);
    when(() => document.querySelector("#answer .class"), () => {
      document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
      const k = document.querySelector("#settings input"), cells = () => [...document.querySelectorAll(".map .cell")];
      k.value = 0;
      k.dispatchEvent(new Event("input"));
      when(() => cells().every(cell => cell.ariaLabel.split("expert").length === 2), () => {
        document.body.dataset.k = document.querySelector("#settings output").textContent;
        cells()[0].focus();
        cells()[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        document.body.dataset.focus = document.activeElement.ariaLabel.split(":")[0];
        done();
      });
    });
  });
"""


@pytest.mark.parametrize("width", [1200, pytest.param(500, marks=pytest.mark.slow)])
def test_a_digit_is_drawn_in_a_browser_and_an_answer_appears(browser, images, tmp_path, width):
    service, _ = images
    before = service.answered
    document, console = acted(browser, service, page("bars", 4).html, DRAW, tmp_path / "profile", width)
    assert console == []
    assert service.answered > before
    assert re.search(r'<p class="class">\d<small>\d+\.\d%</small>', document)
    assert document.count('class="bar"') == 4
    assert document.count('role="img" aria-label="row ') == np.prod(service._model.module.grid)
    assert "ms in the network" in document
    assert 'data-overflow="0"' in document
    assert document.count("<output") == 2
    assert 'data-k="1"' in document
    assert 'data-focus="row 1, column 2"' in document


CHOOSE = """
  const choose = file => {
    const chosen = new DataTransfer();
    chosen.items.add(file);
    document.getElementById("file").files = chosen.files;
    document.getElementById("file").dispatchEvent(new Event("change"));
  };
  when(() => document.getElementById("pad").offsetWidth, () => {
    const picture = Object.assign(document.createElement("canvas"), { width: 60, height: 40 });
    const pen = picture.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, 60, 40);
    pen.fillStyle = "black";
    pen.fillRect(27, 6, 5, 28);
    picture.toBlob(blob => choose(new File([blob], "one.png", { type: "image/png" })));
    when(() => document.querySelector("#answer .class"), () => {
      choose(new File(["no picture"], "letter.png", { type: "image/png" }));
      when(() => !document.getElementById("error").hidden, done);
    });
  });
"""


def test_a_picture_is_chosen_in_a_browser_and_what_is_none_is_said(browser, images, tmp_path):
    document, console = acted(browser, images[0], page("bars", 4).html, CHOOSE, tmp_path / "profile")
    assert console == []
    assert re.search(r'<p class="class">\d<small>\d+\.\d%</small>', document)
    assert "letter.png cannot be read as a picture; choose another." in document


def test_the_page_is_whole_in_itself_under_its_own_policy(browser, images, tmp_path):
    _, port = images
    _, headers, content = asked(port, path="/", method="GET")
    text = content.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", text)
    assert "<h1>bars &lt;1&gt;</h1>" in text
    flags = ("--window-size=1200,900", "--virtual-time-budget=5000", "--dump-dom")
    document, console = visit(browser, f"http://127.0.0.1:{port}/", tmp_path / "profile", *flags)
    assert console == []
    assert "step 1" in document
