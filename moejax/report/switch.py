"""Parts of a page that take turns: radio buttons and style, since a report forbids scripts. On paper all are seen."""

from collections.abc import Sequence
from html import escape


def buttons(group: str, names: Sequence[str]) -> str:
    """HTML of a button for each name, the first one pressed; what they switch are siblings after them."""
    return "".join(
        f'<input type="radio" name="{group}" id="{group}-{n}"{"" if n else " checked"}>'
        f'<label for="{group}-{n}">{escape(name)}</label>'
        for n, name in enumerate(names)
    )


def pressed(group: str, number: int) -> str:
    """A CSS selector of what comes after the buttons while one is pressed."""
    return f"#{group}-{number}:checked~"
