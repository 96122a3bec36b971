"""What every page is made in: one file that needs no other, forbids all scripts, and reads in light, dark and print."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

HERE = Path(__file__).parent


def framed(title: str, body: str, more: str = "") -> str:
    """The HTML of a page; `title` is text, `body` HTML, `more` CSS beyond that of all pages."""
    frame = Template((HERE / "frame.html").read_text(encoding="utf-8"))
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return frame.substitute(title=escape(title), style=style + more, body=body)


def plate(words: str, picture: bytes) -> str:
    """A PNG as wide as the text, without the title that it has as a file; `words` say what it shows."""
    data = base64.b64encode(picture).decode("ascii")
    return f'<div class="plate"><div><img alt="{escape(words)}" src="data:image/png;base64,{data}"></div></div>'


def please_note(sentences: Iterable[object]) -> str:
    """A box of sentences; nothing if there are none."""
    items = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in sentences)
    return f'<aside class="notes" role="note"><strong>Please note</strong><ul>{items}</ul></aside>' if items else ""
