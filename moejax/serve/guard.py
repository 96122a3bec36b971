"""Whose requests are taken: those of a page of this server, not those of another site that the browser has open."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from moejax.errors import abridged


def refusal(host: str | None, origin: str | None, names: Collection[str]) -> str | None:
    """Why a request with these headers is not taken; None if it is.

    A site whose name is made to point at this machine (DNS rebinding) has that name as the Host, so only addresses and
    known `names` are taken. Another site's page has another Origin than the Host.
    """
    if not (name := _name(host)) or not (_is_address(name) or name in names):
        return f"Host is {abridged(repr(host))}, which is no name of this server; use its address, or serve --host it."
    if origin is not None and _place(origin) != (host or "").lower():
        return f"Origin is {abridged(repr(origin))}; only this server's own page may ask."
    return None


def _place(url: str) -> str | None:
    """The host and port of an address; None if it is none."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str | None) -> str | None:
    try:
        parts = urlsplit(f"//{host or ''}")
        whole = parts.netloc == host and "@" not in parts.netloc and (parts.port or True)  # ValueError for no port
        return parts.hostname if whole else None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# The page needs nothing from anywhere; its own style and script are named by their hashes.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; style-src {style}; script-src {script}"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
