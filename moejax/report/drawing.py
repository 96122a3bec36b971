"""The figures of a run and the page around them, from its files."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from moejax.files import write_whole
from moejax.report.page import page
from moejax.report.record import Record
from moejax.report.sections import SECTIONS
from moejax.report.style import DPI, STYLE, entitle


def draw(run_dir: Path, record: Record) -> Path:
    """Draw the report of what was read there; see `moejax.report.render`."""
    (run_dir / "figures").mkdir(exist_ok=True)
    pictures: dict[str, bytes] = {}
    for section in SECTIONS:
        path = run_dir / "figures" / f"{section.name}.png"
        if section.missing(record) or not section.speaks_of(record):
            path.unlink(missing_ok=True)  # an earlier report may have drawn it
            continue
        with matplotlib.rc_context(STYLE):
            pictures[section.name] = png(section.draw(record), section.title)
        write_whole(path, pictures[section.name])
    report = run_dir / "report.html"
    write_whole(report, page(record, pictures))
    return report


def png(figure: Figure, title: str) -> bytes:
    """The file of a figure, with its title in it."""
    entitle(figure, title)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
