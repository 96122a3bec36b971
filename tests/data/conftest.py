"""A complete data set of 40 + 10 images in MNIST's files, and web servers for it: no test leaves 127.0.0.1."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from moejax.data import idx, mnist

REAL_DATA = os.environ.get("MOEJAX_DATA_DIR")


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A data set made on the spot: what `mnist` must know of it, the files' contents, and the arrays in them."""

    images: mnist.ImageSet
    contents: dict[str, bytes]
    arrays: dict[str, np.ndarray]

    def write(self, folder: Path, *, packed: bool = True, without: str | None = None) -> Path:
        """Writes the files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if name != without:
                path = folder / (f"{name}.gz" if packed else name)
                path.write_bytes(gzip.compress(content) if packed else content)
        return folder

    def mirrored(self, *mirrors: str) -> mnist.ImageSet:
        return dataclasses.replace(self.images, mirrors=mirrors)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in {"train": 40, "test": 10}.items():
        images, labels = mnist.SPLITS[split]
        arrays[images] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[labels] = rng.integers(0, 10, count, np.uint8)
    contents = {name: idx.encode(array) for name, array in arrays.items()}
    images = mnist.ImageSet(
        name="tiny",
        counts={"train": 40, "test": 10},
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        mirrors=(),
        hub="nobody/tiny",
    )
    return Tiny(images, contents, arrays)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The test's own cache; no variable of the developer's reaches a test."""
    for variable in ("MOEJAX_DATA_DIR", "XDG_CACHE_HOME", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def real_data() -> str:
    if not REAL_DATA:
        pytest.skip("needs the real data sets: set MOEJAX_DATA_DIR to a folder that holds mnist/")
    return REAL_DATA


@pytest.fixture
def answer():
    """answer(function) starts a web server on 127.0.0.1 that lets `function(handler)` answer, and gives its URL."""
    servers = []

    def start(function):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                function(self)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # whoever asked may be gone
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve(answer):
    """serve({path: body}) starts a web server on 127.0.0.1 and gives its URL; a body of None is cut off half-way."""

    def start(bodies: dict[str, bytes | None]) -> str:
        def give(handler):
            name = handler.path.lstrip("/")
            if name not in bodies:
                handler.send_error(404)
                return
            body = bodies[name]
            handler.send_response(200)
            handler.send_header("Content-Length", str(100 if body is None else len(body)))
            handler.end_headers()
            handler.wfile.write(b"\x1f\x8b" if body is None else body)

        return answer(give)

    return start
