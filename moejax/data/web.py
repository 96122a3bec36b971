"""Two plain steps to the network: is the host there at all (seconds, not minutes), and fetch one file.

Without a network the libraries that fetch data retry for 20 to 200 seconds; a plain connection fails at once.
"""

import concurrent.futures
import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PROBE_SECONDS = 2.0
SILENT_SECONDS = 10.0  # without a byte arriving
FETCH_SECONDS = 300.0  # in all: the largest file, of 10 MB, at 33 kB a second


def probe(url: str) -> None:
    """Returns if a connection to the host of `url` (or to the proxy set for it) opens within 2 s.

    Raises:
      ConnectionError: it does not, or there is no such URL; the message says why.
    """
    try:
        host, port = _endpoint(url)
    except ValueError as error:
        raise ConnectionError(f"{url} or the proxy set for it is no URL ({error})") from error

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:  # ValueError: a name that no name server can hold
            raise ConnectionError(f"cannot connect to {host} ({getattr(error, 'strerror', None) or error})") from error

    _within(PROBE_SECONDS, connect, f"{host} did not answer within {PROBE_SECONDS:g} s")


def fetch(url: str, limit: int) -> bytes:
    """The body at `url`, at most `limit` bytes of it.

    Raises:
      OSError: it cannot be had, or 10 s pass without a byte, or 5 minutes in all.
    """

    def read() -> bytes:
        try:
            with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as response:
                return response.read(limit)
        except urllib.error.HTTPError as error:
            error.close()  # it is the response, too
            raise

    try:
        return _within(FETCH_SECONDS, read, f"{url} took more than {FETCH_SECONDS:g} s")
    except (http.client.HTTPException, ValueError) as error:  # ValueError: it, a redirect or a proxy is no URL
        raise ConnectionError(f"{type(error).__name__} while reading {url} ({error})") from error


def _within(seconds: float, step: Callable[[], T], late: str) -> T:
    """What `step` returns or raises; ConnectionError `late` if that takes longer.

    In a thread, because neither looking up a name nor reading byte by byte can be given a time-out.
    """
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(step())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    done, _ = concurrent.futures.wait([answer], seconds)
    if not done:
        raise ConnectionError(late)
    return answer.result()


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port that a request for `url` connects to first; ValueError if it has none."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if parts.hostname and proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    if not parts.hostname:
        raise ValueError("it names no host")
    return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 443)
