"""The page: one HTML file with its style and pictures inside, built from a record and its figures."""

import math
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

from moejax.report.frame import framed, plate, please_note
from moejax.report.headline import facts, kind, score
from moejax.report.record import Record, flat
from moejax.report.sections import SECTIONS, Section

HERE = Path(__file__).parent


def page(record: Record, pictures: Mapping[str, bytes]) -> str:
    """HTML of the whole report.

    Args:
        record: the run.
        pictures: PNG bytes by section name, for the sections that could be drawn.
    """
    drawn = [section for section in SECTIONS if section.name in pictures]
    absent = [section for section in SECTIONS if section.name not in pictures and section.speaks_of(record)]
    accuracy, meaning = score(record)
    body = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        name=escape(record.name),
        kind=escape(kind(record)),
        score="?" if math.isnan(accuracy) else f"{100 * accuracy:.2f}<small>%</small>",
        meaning=escape(meaning),
        facts="\n".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts(record)),
        notes=_notes(record),
        contents="\n".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in drawn),
        sections="\n".join(_section(section, pictures[section.name]) for section in drawn),
        absent=_absent(absent, record),
        config=_table(flat(record.config), "config.json is empty."),
        environment=_table(flat(record.environment), "The run recorded no environment."),
        command=escape(f"python -m moejax.run --config {shlex.quote(record.folder.name)}/config.json"),
        again=escape(f"python -m moejax report {shlex.quote(record.folder.name)}"),
    )
    return framed(f"{record.name}: moejax report", body)


def _notes(record: Record) -> str:
    notes = record.summary.get("notes") or []
    return please_note([*(notes if isinstance(notes, list) else [notes]), *record.remarks])


def _section(section: Section, picture: bytes) -> str:
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2><figure>{plate(section.title, picture)}'
        f"<figcaption><p><b>Good</b> {escape(section.good)}</p><p><b>Bad</b> {escape(section.bad)}</p></figcaption>"
        "</figure></section>"
    )


def _absent(sections: list[Section], record: Record) -> str:
    """One quiet sentence for each figure that could not be drawn."""
    if not sections:
        return ""
    lines = (f"{section.title}: the run recorded no {', '.join(section.missing(record))}." for section in sections)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section id="absent"><h2>Left out</h2><ul class="absent">{items}</ul></section>'


def _table(rows: list[tuple[str, str]], empty: str) -> str:
    if not rows:
        return f'<p class="absent">{escape(empty)}</p>'
    cells = "\n".join(f'<tr><th scope="row">{escape(what)}</th><td>{escape(value)}</td></tr>' for what, value in rows)
    return f"<table>{cells}</table>"
