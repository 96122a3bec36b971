"""A run folder drawn as figures and one self-contained HTML page: `render`."""

import os
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from moejax.report.page import page
from moejax.report.record import read
from moejax.report.sections import SECTIONS
from moejax.report.style import DPI, STYLE, entitle

__all__ = ["render"]


def render(run_dir: Path) -> Path:
    """Draw `figures/*.png` and `report.html` from the files of a finished or interrupted run.

    Each file is replaced whole: who looks while it is drawn sees the old one. A figure whose data the run does not have
    is left out, and the page says so.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: `run_dir` is no run folder.
    """
    record = read(run_dir)
    (run_dir / "figures").mkdir(exist_ok=True)
    pictures: dict[str, bytes] = {}
    for section in SECTIONS:
        path = run_dir / "figures" / f"{section.name}.png"
        if section.missing(record) or not section.speaks_of(record):
            path.unlink(missing_ok=True)  # of an earlier rendering
            continue
        with matplotlib.rc_context(STYLE):
            pictures[section.name] = _png(section.draw(record), section.title)
        _replace(path, pictures[section.name])
    report = run_dir / "report.html"
    _replace(report, page(record, pictures).encode("utf-8"))
    return report


def _png(figure: Figure, title: str) -> bytes:
    entitle(figure, title)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
