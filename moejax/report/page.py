"""The page: one HTML file with its style and pictures inside, built from a record and its figures."""

import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

from matplotlib.colors import to_hex

from moejax.report.ailments import ailments
from moejax.report.earlier import beside, earlier
from moejax.report.frame import framed, plate, please_note
from moejax.report.headline import facts, headline, kind
from moejax.report.record import Record, flat
from moejax.report.section import Section
from moejax.report.sections_of_text import sections_of, style_of
from moejax.report.style import expert_colours

HERE = Path(__file__).parent


def page(record: Record, parts: Mapping[str, bytes | str]) -> str:
    """HTML of the whole report.

    Args:
        record: the run.
        parts: PNG bytes or HTML by section name, for the sections that could be drawn.
    """
    sections = sections_of(record)
    drawn = [section for section in sections if section.name in parts]
    absent = [section for section in sections if section.name not in parts and section.speaks_of(record)]
    figure, unit, meaning = headline(record)
    before = earlier(record)
    other = shlex.quote(before.folder.name) if before else "EARLIER"
    body = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        name=escape(record.name),
        kind=escape(kind(record)),
        score=f"{figure}<small>{unit}</small>",
        meaning=escape(meaning),
        words=_words(ailments(record)),
        facts="\n".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts(record)),
        notes=_notes(record),
        contents="\n".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in drawn),
        sections="\n".join(_section(section, record, parts[section.name]) for section in drawn),
        absent=_absent(absent, record),
        earlier=beside(record, before) if before else "",
        config=_table(flat(record.config), "config.json is empty."),
        environment=_table(flat(record.environment), "The run recorded no environment."),
        command=escape(f"python -m moejax.run --config {_word(record.folder.name)}/config.json"),
        again=escape(f"python -m moejax report {_word(record.folder.name)}"),
        compare=escape(f"python -m moejax compare {other} {_word(record.folder.name)}"),
    )
    return framed(f"{record.name}: moejax report", body, _style(record))


def _style(record: Record) -> str:
    """What the page of a text needs beyond the house's style."""
    if not record.is_text:
        return style_of(record)
    colours = "".join(f"--expert-{n}:{to_hex(colour)};" for n, colour in enumerate(expert_colours(record.experts or 1)))
    return f"{(HERE / 'text.css').read_text(encoding='utf-8')}:root{{{colours}}}\n{style_of(record)}"


def _words(sentences: list[str]) -> str:
    items = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="words">{items}</div>' if items else ""


def _word(folder: str) -> str:
    """A folder's name as a word of a command, and no option."""
    return shlex.quote(f"./{folder}" if folder.startswith("-") else folder)


def _notes(record: Record) -> str:
    notes = record.summary.get("notes") or []
    return please_note([*(notes if isinstance(notes, list) else [notes]), *record.remarks])


def _section(section: Section, record: Record, part: bytes | str) -> str:
    finding = section.finding(record)
    seen = part if isinstance(part, str) else plate(f"{section.title}. {finding}".strip(), part)
    here = f'<p class="here"><b>Here</b> {escape(finding)}</p>' if finding else ""
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2><figure>{seen}'
        f"<figcaption>{here}<p><b>Good</b> {escape(section.good)}</p><p><b>Bad</b> {escape(section.bad)}</p>"
        "</figcaption></figure></section>"
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
