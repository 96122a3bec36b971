"""The network is asked once, quickly."""

import gc
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


@pytest.mark.parametrize("part", ["body", "head"])
def test_a_server_that_trickles_is_left_after_a_while(answer, monkeypatch, part):
    def trickle(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 1000\r\n\r\n" * (part == "body"))
        for _ in range(20):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    monkeypatch.setattr(web, "FETCH_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:\d+/ took more than 0\.3 s"):
        web.fetch(answer(trickle), limit=1000)
    assert time.monotonic() - started < 0.9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "target", ["http://[::bad", "http://a:port/", "http://" + "a" * 70 + ".invalid/", "nothing://"]
)
def test_a_redirect_to_no_url_is_no_connection(answer, target):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with pytest.raises(OSError, match=r".+"):
        web.fetch(answer(redirect), limit=100)
    gc.collect()  # of a redirect that is no URL the library leaves the answer open


@pytest.mark.parametrize("proxy", ["http://proxy.invalid:port", "proxy:99999", "http://[::bad", "http://:1"])
def test_a_proxy_that_is_no_url_is_no_connection(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConnectionError, match=r"^http://far\.invalid/ or the proxy set for it is no URL \(.+\)$"):
        web.probe("http://far.invalid/")
    with pytest.raises(OSError, match=r".+"):
        web.fetch("http://far.invalid/", limit=1)


@pytest.mark.parametrize("url", ["", "nowhere", "http://", "http://[::bad", "http://a:b/", "http://a:99999"])
def test_what_is_no_url_is_no_connection(url):
    with pytest.raises(ConnectionError, match=r"is no URL"):
        web.probe(url)
    with pytest.raises(OSError, match=r".+"):
        web.fetch(url, limit=1)
