"""Two plain steps to the network: is the host there at all (seconds, not minutes), and fetch one file.

Without a network the libraries that fetch data retry for 20 to 200 seconds; a plain connection fails at once.
"""

import http.client
import socket
import threading
import urllib.parse
import urllib.request

PROBE_SECONDS = 2.0
FETCH_SECONDS = 10.0  # without a byte arriving


def probe(url: str) -> None:
    """Returns if a connection to the host of `url` (or to the proxy set for it) opens within 2 s.

    Raises:
      ConnectionError: it does not; the message says why.
    """
    host, port = _endpoint(url)
    outcome: list[str | None] = []

    def connect():
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(f"cannot connect to {host} ({error.strerror or error})")

    # In a thread, because looking up a name cannot be given a time-out.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    problem = outcome[0] if outcome else f"{host} did not answer within {PROBE_SECONDS:g} s"
    if problem:
        raise ConnectionError(problem)


def fetch(url: str, limit: int) -> bytes:
    """The body at `url`, at most `limit` bytes of it.

    Raises:
      OSError: it cannot be had, or 10 s pass without a byte.
    """
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as response:
            return response.read(limit)
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__} while reading {url}") from error


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port that a request for `url` connects to first."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 443)
