"""The parts of a report on text: figures as of labelled examples, in other words, and what tells of tokens."""

from dataclasses import replace

from moejax.report import film, findings, held_out, likes
from moejax.report.curves import curves_of_text
from moejax.report.record import Record
from moejax.report.section import Section
from moejax.report.sections import MAP, SECTIONS

_OF_LABELS = {section.name: section for section in SECTIONS}

OF_TEXT = (
    replace(
        _OF_LABELS["curves"],
        title="Bits and accuracy",
        bad="Validation turns upwards while training falls (overfitting), or a line breaks off (the loss was not a "
        "number).",
        draw=curves_of_text,
    ),
    Section(
        "held_out",
        "A held-out text, token by token",
        "One kind of token, or of place in the code, keeps one colour: the experts have a trade each.",
        "Colours without any relation to the text, or one colour everywhere (a collapsed router).",
        held_out.held_out,
        findings.held_out,
        ("sample_tokens", "sample_nats", "sample_gate"),
    ),
    Section(
        "film",
        "The same line, later and later",
        "Colours that settle early, and change where the line does: the experts divide the text among them.",
        "Colours that change to the end: the router has not decided. One colour from the start: a collapsed router.",
        film.film_of_text,
        findings.film,
        ("film", "film_step", "sample_tokens"),
        optional=True,
        several=True,
    ),
    Section(
        "likes",
        "What each expert likes",
        "Rows that can be named: an expert of blanks, of digits, of brackets, of the beginnings of words.",
        "Rows that could be exchanged, or empty ones.",
        likes.likes,
        findings.likes,
        ("content_expert", "label_expert"),
        several=True,
    ),
    replace(
        _OF_LABELS["experts_by"],
        title="Experts by token, by next token and by position",
        good="The token leads in the first layer, and less in later ones, where what came before it counts too.",
        bad="Position near 100%: a fixed table of places would route as well. The token near 100% in all layers: a "
        "fixed table of tokens would (the router hash). All near 0: the choice follows none of them (the router "
        "random), or the gate has not decided.",
        several=True,
    ),
    MAP,
    replace(_OF_LABELS["load"], several=True),
    replace(
        _OF_LABELS["gate"],
        bad="Entropy stuck at the ceiling (the gate tells no two tokens apart) or at zero early on (it stopped "
        "exploring); many dropped tokens mean too small a capacity or an unbalanced gate.",
        several=True,
    ),
)


def sections_of(record: Record) -> tuple[Section, ...]:
    """The parts of a run's report, in the order of the page."""
    return OF_TEXT if record.is_text else SECTIONS


def style_of(record: Record) -> str:
    """CSS that only some parts need."""
    rules = [film.style_of(record)] if record.has("film") else []
    rules += [held_out.style_of(record)] if record.is_text and record.has("sample_gate") else []
    rules += [likes.style_of(record)] if record.is_text and record.has("content_expert") else []
    return "\n".join(rules)
