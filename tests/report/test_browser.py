"""The page in a real browser: everything is there, every picture has loaded, nothing is complained about."""

import re

import numpy as np
import pytest
from chromium import PROBE, visit
from matplotlib.image import imread
from synthetic import write_run

from moejax.report import render
from moejax.report.sections import SECTIONS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return render(write_run(tmp_path_factory.mktemp("runs") / "soft"))


FRAMES = 5  # of the film


@pytest.mark.parametrize("width", [1280, 500])
def test_page_is_whole(browser, report, tmp_path, width):
    probed = tmp_path / "probed.html"
    text = report.read_text()
    # The page forbids all scripts; the copy with a probe in it must not.
    without_policy = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", text)
    probed.write_text(without_policy.replace("</body>", PROBE))
    document, console = visit(browser, probed, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    for section in SECTIONS:
        assert f'<section id="{section.name}">' in document
    assert f'data-pictures="{len(SECTIONS) - 1 + FRAMES}"' in document
    assert 'data-overflow="0"' in document
    assert console == []


# How many figures are cut at the right, and how many headings have nothing under them.
PAPER_PROBE = """<script>addEventListener("load", () => {
  const seen = element => element.getClientRects().length > 0;
  const all = selector => [...document.querySelectorAll(selector)].filter(seen);
  document.body.dataset.cut = all(".plate, pre").filter(plate => plate.scrollWidth > plate.clientWidth).length;
  document.body.dataset.bare = all("section").filter(section => all(`#${section.id} > *`).length < 2).length;
})</script></body>"""


def test_on_paper_no_figure_is_cut_and_no_heading_is_bare(browser, report, tmp_path):
    probed = tmp_path / "probed.html"
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", report.read_text(encoding="utf-8"))
    as_paper = text.replace("@media print", "@media all").replace("@media screen", "@media not all")
    probed.write_text(as_paper.replace("</body>", PAPER_PROBE), encoding="utf-8")
    document, _ = visit(browser, probed, tmp_path / "profile", "--window-size=688,900", "--dump-dom")
    assert 'data-cut="0"' in document
    assert 'data-bare="0"' in document


def test_on_paper_pages_are_not_half_empty(browser, report, tmp_path):
    paper, a4 = tmp_path / "report.pdf", tmp_path / "a4.html"
    a4.write_text(
        report.read_text(encoding="utf-8").replace("</style>", "@page { size: A4; }</style>"), encoding="utf-8"
    )
    visit(browser, a4, tmp_path / "profile", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type /Page\b", paper.read_bytes()))
    assert 1 < pages <= 2 + len(SECTIONS) / 2  # the headline, two figures a page, the rest


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_can_be_seen(browser, report, tmp_path, scheme):
    shot = tmp_path / "shot.png"
    flags = (
        f"--screenshot={shot}",
        "--window-size=1280,3000",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    )
    _, console = visit(browser, report, tmp_path / "profile", *flags)
    pixels = imread(shot)[..., :3]
    upper, lower = np.array_split(pixels, 2)
    assert console == []
    assert upper.std() > 0.05
    assert lower.std() > 0.05
    assert (np.median(pixels) > 0.5) == (scheme == "light")
