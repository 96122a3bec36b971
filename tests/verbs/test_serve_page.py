"""The live page in a browser: drawn on, pushed and whole in itself."""

import re

import numpy as np
import pytest
from chromium import visit
from serving import asked, images, run, served  # noqa: F401
from starlette.responses import HTMLResponse
from starlette.routing import Route

from moejax.serve.page import page

DRAW = """<script>addEventListener("load", () => {
  const pad = document.getElementById("pad");
  const at = (kind, x, y) => {
    const box = pad.getBoundingClientRect();
    const where = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
    pad.dispatchEvent(new PointerEvent(kind, where));
  };
  const wait = setInterval(() => {
    if (!pad.offsetWidth) return;
    clearInterval(wait);
    at("pointerdown", 0.5, 0.2);
    for (let n = 1; n <= 12; n += 1) at("pointermove", 0.5 - 0.01 * n, 0.2 + 0.05 * n);
    at("pointerup", 0.38, 0.8);
    const done = setInterval(() => {
      if (!document.querySelector("#answer .class")) return;
      clearInterval(done);
      document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
      const k = document.querySelector("#settings input"), cells = () => [...document.querySelectorAll(".map .cell")];
      k.value = 0;
      k.dispatchEvent(new Event("input"));
      const moved = setInterval(() => {
        if (cells().some(cell => cell.ariaLabel.split("expert").length > 2)) return;
        clearInterval(moved);
        document.body.dataset.k = document.querySelector("#settings output").textContent;
        cells()[0].focus();
        cells()[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        document.body.dataset.focus = document.activeElement.ariaLabel.split(":")[0];
      }, 20);
    }, 20);
  }, 20);
})</script></body>"""


@pytest.mark.parametrize("width", [1200, pytest.param(500, marks=pytest.mark.slow)])
def test_a_digit_is_drawn_in_a_browser_and_an_answer_appears(browser, images, tmp_path, width):
    service, _ = images
    before = service.answered

    def probed(app):  # the page's own policy lets no other script run
        html = page("bars", 4).html.replace("</body>", DRAW)
        app.router.routes.append(Route("/drawn", lambda _: HTMLResponse(html)))

    with served(service, probed) as port:
        flags = (f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom")
        document, console = visit(browser, f"http://127.0.0.1:{port}/drawn", tmp_path / "profile", *flags)
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


CHOOSE = """<script>addEventListener("load", () => {
  const choose = file => {
    const chosen = new DataTransfer();
    chosen.items.add(file);
    document.getElementById("file").files = chosen.files;
    document.getElementById("file").dispatchEvent(new Event("change"));
  };
  const wait = setInterval(() => {
    if (!document.getElementById("pad").offsetWidth) return;
    clearInterval(wait);
    const picture = Object.assign(document.createElement("canvas"), { width: 60, height: 40 });
    const pen = picture.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, 60, 40);
    pen.fillStyle = "black";
    pen.fillRect(27, 6, 5, 28);
    picture.toBlob(blob => choose(new File([blob], "one.png", { type: "image/png" })));
    const done = setInterval(() => {
      if (!document.querySelector("#answer .class")) return;
      clearInterval(done);
      choose(new File(["no picture"], "letter.png", { type: "image/png" }));
    }, 20);
  }, 20);
})</script></body>"""


def test_a_picture_is_chosen_in_a_browser_and_what_is_none_is_said(browser, images, tmp_path):
    html = page("bars", 4).html.replace("</body>", CHOOSE)
    route = Route("/chosen", lambda _: HTMLResponse(html))
    with served(images[0], lambda app: app.router.routes.append(route)) as port:
        # Pictures are read beside virtual time, which must not be over before.
        flags = ("--window-size=1200,900", "--virtual-time-budget=600000", "--dump-dom")
        document, console = visit(browser, f"http://127.0.0.1:{port}/chosen", tmp_path / "profile", *flags)
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
