"""A comparison as one HTML page, with its figures and tables inside."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.colors import to_hex

from moejax.comparison.comparison import Comparison, Key
from moejax.comparison.figures import FIGURES
from moejax.comparison.tables import Table, tables
from moejax.files import write_whole
from moejax.report.drawing import png
from moejax.report.frame import framed, plate, please_note
from moejax.report.style import STYLE, expert_colours

ORDER = ("accuracy", "pairs", "curves", "load", "cost", "differences")


def draw(comparison: Comparison, file: Path) -> Path:
    """Write the page; its path. OSError if it cannot be written."""
    pictures = {}
    for name, (title, figure_of) in FIGURES.items():
        with matplotlib.rc_context(STYLE):
            if (figure := figure_of(comparison)) is not None:
                pictures[name] = png(figure, title)
    write_whole(file, page(comparison, pictures))
    return file


def page(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """The HTML; `pictures`: PNGs by the name of their figure."""
    runs, found = comparison.runs, {table.name: table for table in tables(comparison)}
    colours = dict(zip((str(run.key) for run in runs), map(to_hex, expert_colours(len(runs))), strict=True))
    titles = {name: title for name, (title, _) in FIGURES.items()} | {t.name: t.title for t in found.values()}
    there = [name for name in ORDER if name in pictures or name in found]
    sections = [_section(name, titles[name], pictures.get(name), found.get(name), colours) for name in there]
    contents = (f'<a href="#{name}">{escape(titles[name])}</a>' for name in there)
    tested = next((run.examples for run in runs if run.examples), None)
    on = f"runs on {runs[0].dataset}" + (f", tested on {tested:,} examples" if tested else "")
    body = "\n".join(
        [
            f'<header><p class="kind">{escape(on)}</p><h1>{len(runs)} runs side by side</h1>',
            f'<ul class="runs">{"".join(_run(run.key, run.name, colours) for run in runs)}</ul>',
            f"{please_note(comparison.remarks)}</header>",
            f'<nav aria-label="Sections">{"".join(contents)}</nav>',
            f"<main>{''.join(sections)}</main>",
            "<footer><p>Made by moejax from the files of the run folders alone. A run has the same colour in every"
            " figure. Layers and experts count from 0.</p></footer>\n",
        ]
    )
    return framed(f"{len(runs)} runs side by side: moejax", body)


def _run(key: Key, name: str, colours: Mapping[str, str]) -> str:
    return f"<li>{_cell(key, colours)} {escape(name)}</li>"


def _section(name: str, title: str, picture: bytes | None, table: Table | None, colours: Mapping[str, str]) -> str:
    figure = f"<figure>{plate(title, picture)}</figure>" if picture else ""
    words = f'{_table(table, colours)}<p class="note">{escape(table.note)}</p>' if table else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{figure}{words}</section>'


def _table(table: Table, colours: Mapping[str, str]) -> str:
    head = "".join(f"<th>{_cell(cell, colours)}</th>" for cell in table.header)
    lines = "".join(f"<tr>{_line(line, colours)}</tr>" for line in table.lines)
    return f'<div class="grid"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _line(cells: Sequence[str], colours: Mapping[str, str]) -> str:
    return "".join(f"<td>{_cell(cell, colours)}</td>" for cell in cells)


def _cell(text: str, colours: Mapping[str, str]) -> str:
    """Text; of a run's letter, with the run's colour."""
    dot = f'<i class="dot" style="background:{colours[text]}"></i>' if isinstance(text, Key) else ""
    return dot + escape(text)
