"""The page: one file with its style and script, in the report's colours."""

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from matplotlib.colors import to_hex

from moejax.report.style import expert_colours
from moejax.serve.guard import POLICY

HERE = Path(__file__).parent


class Page(NamedTuple):
    """HTML, and the policy that forbids whatever is not in it."""

    html: str
    policy: str


def page(run: str, num_experts: int) -> Page:
    """The page of a run with so many experts a layer."""
    frame = Template((HERE / "page.html").read_text(encoding="utf-8"))
    colours = [f"--expert-{n}: {to_hex(colour)};" for n, colour in enumerate(expert_colours(num_experts))]
    report = HERE.parent / "report"
    sheets = (report / "page.css", report / "text.css", HERE / "page.css")
    style = f"{''.join(file.read_text(encoding='utf-8') for file in sheets)}:root {{ {' '.join(colours)} }}\n"
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "text.js"))
    html = frame.substitute(title=escape(run), style=style, script=script)
    return Page(html, POLICY.format(style=_named(style), script=_named(script)))


def _named(text: str) -> str:
    """As a Content-Security-Policy names an element by what is in it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
