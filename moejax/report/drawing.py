"""The figures of a run and the page around them, from its files."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from moejax.files import sweep, write_whole
from moejax.report.page import page
from moejax.report.record import Record
from moejax.report.sections import SECTIONS
from moejax.report.sections_of_text import sections_of
from moejax.report.style import DPI, STYLE, entitle


def draw(run_dir: Path, record: Record) -> Path:
    """Draw the report of what was read there; see `moejax.report.render`."""
    (run_dir / "figures").mkdir(exist_ok=True)
    for folder in (run_dir, run_dir / "figures"):
        sweep(folder)  # what a report that was killed has left
    parts: dict[str, bytes | str] = {}
    with matplotlib.rc_context(STYLE):
        for section in sections_of(record):
            if section.speaks_of(record) and not section.missing(record):
                drawn = section.draw(record)
                parts[section.name] = drawn if isinstance(drawn, str) else png(drawn, section.title)
    for name in {section.name for section in SECTIONS} | parts.keys():
        path = run_dir / "figures" / f"{name}.png"
        if isinstance(part := parts.get(name), bytes):
            write_whole(path, part)
        else:
            path.unlink(missing_ok=True)  # an earlier report may have drawn it
    report = run_dir / "report.html"
    write_whole(report, page(record, parts))
    return report


def png(figure: Figure, title: str) -> bytes:
    """The file of a figure, with its title in it."""
    entitle(figure, title)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
