"""The network is asked once, quickly."""

import socket
import time

import pytest

from moejax.data import web


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_probe_of_a_server_that_is_there(serve):
    web.probe(serve({}))


def test_probe_of_nobody_fails():
    with pytest.raises(ConnectionError, match=r"cannot connect to 127\.0\.0\.1"):
        web.probe(f"http://127.0.0.1:{closed_port()}/")


def test_probe_does_not_wait_for_a_name_server_that_is_silent(monkeypatch):
    def keep_silent(*_, **__):
        time.sleep(0.5)
        raise OSError("at last")

    monkeypatch.setattr(web, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "create_connection", keep_silent)
    with pytest.raises(ConnectionError, match=r"example\.invalid did not answer within 0\.05 s"):
        web.probe("https://example.invalid/x")


def test_probe_asks_the_proxy_where_one_is_set(monkeypatch):
    asked = []

    def refuse(address, timeout):
        asked.append(address)
        raise OSError("no")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "near.invalid")
    for url in ("https://far.invalid/x", "https://near.invalid/x", "http://far.invalid:81/x"):
        with pytest.raises(ConnectionError):
            web.probe(url)
    assert asked == [("proxy.invalid", 3128), ("near.invalid", 443), ("far.invalid", 81)]


def test_fetch(serve):
    url = serve({"file": b"content"})
    assert web.fetch(url + "file", limit=100) == b"content"
    assert web.fetch(url + "file", limit=4) == b"cont"
    with pytest.raises(OSError, match="404"):
        web.fetch(url + "missing", limit=100)
