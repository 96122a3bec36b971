"""Runs that are served for the tests, and what asks them."""

import base64
import http.client
import io
import json
import threading
from contextlib import contextmanager

import pytest
from chromium import visit
from PIL import Image
from runs.test_model import IMAGE, RUNS, SPARSE, of_images, of_pairs
from small_run import saved_run

import moejax
from moejax.config import make_config
from moejax.serve import listen
from moejax.serve.service import Service

pytest.importorskip("starlette", reason="of the extra `serve`")
uvicorn = pytest.importorskip("uvicorn", reason="of the extra `serve`")


from starlette.responses import HTMLResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from moejax.serve.app import application  # noqa: E402

MNIST_LIKE = dict(model=IMAGE, moe=SPARSE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "bars"
    saved_run(path, make_config(name="bars", **MNIST_LIKE), of_images(), {1: None})
    return path


@contextmanager
def served(service, change=lambda app: None):
    """The port of a server in a thread."""
    app = application(service, listen.names("127.0.0.1"))
    change(app)
    with listen.listening("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


# A page counts as loaded, and is printed, once its last picture is there: it comes when the script calls `done`.
ACT = """<img src="/held" alt=""><script>{
const when = (ready, then) => {
  const wait = setInterval(() => { if (ready()) { clearInterval(wait); then(); } }, 20);
};
const done = () => fetch("/done");
%s
}</script></body>"""


def acted(browser, service, html, script, profile, width=1200) -> tuple[str, list[str]]:
    """The served page after `script` has acted on it, in real time, and what its console says."""
    over = threading.Event()

    def held(request):
        over.wait(40)  # a script that never ends is printed as far as it came
        return Response(status_code=204)

    def ended(request):
        over.set()
        return Response(status_code=204)

    def change(app):
        text = html.replace("</body>", ACT % script)
        pages = {"/acted": lambda _: HTMLResponse(text), "/held": held, "/done": ended}
        app.router.routes += [Route(path, answer) for path, answer in pages.items()]

    with served(service, change) as port:
        return visit(browser, f"http://127.0.0.1:{port}/acted", profile, f"--window-size={width},900", "--dump-dom")


@pytest.fixture(scope="module")
def images(run):
    """The service of a run on images, and its port."""
    service = Service(moejax.runs.load(run), "bars <1>")
    with served(service) as port:
        yield service, port


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pairs"
    saved_run(path, make_config(name="pairs", **RUNS["pairs"][1]), of_pairs(), {1: None})
    service = Service(moejax.runs.load(path), "pairs")
    with served(service) as port:
        yield service, port


def asked(port, body=None, path="/api/predict", method="POST", **headers):
    """Status, headers and content of a reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kept = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    body = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, body, kept)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, content


def said(port, body):
    status, _, content = asked(port, body)
    assert status == 200, content
    return json.loads(content)


def png(array, form="png"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def dark(n=0):
    return of_images().test["image"][n] // 64 * 85
