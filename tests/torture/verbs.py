"""A report that is being drawn, and data that are being fetched, are killed at random moments, twice in a row.

The run must be as it was, the page whole or not there, and the cache without a file that is not what was published.
Then the ordinary command must draw the same page, or fetch the same data, and leave nothing half-written behind.
"""

import contextlib
import http.server
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moejax import manifest
from moejax.data.find import user_folder
from moejax.data.mnist import MNIST, published_files
from moejax.errors import UserError
from tests.torture import small_runs
from tests.torture.figure import Figure, figure

SEED = 41
# MNIST from an address of one's own, as from a mirror.
_FETCH = """
import dataclasses, sys
from moejax import entry
from moejax.data import mnist
mirror = dataclasses.replace(mnist.MNIST, mirrors=(sys.argv[1],))
entry.end(entry.run(lambda: print(mnist.load(mirror, sys.argv[2]).sha256)))
"""


def torture(quick: bool) -> Iterator[Figure]:
    """Both; at fewer moments if `quick`."""
    with tempfile.TemporaryDirectory(prefix="moejax-verbs-") as place:
        yield _report(Path(place), 2 if quick else 25)
        yield _fetch(Path(place), 2 if quick else 25)


def _report(place: Path, pairs: int) -> Figure:
    run = small_runs.image_run(place)
    words = ["-m", "moejax", "report", str(run)]
    longest = _seconds(words)
    before, draw, wrong, killed = _files(run), random.Random(SEED), [], 0
    for number in range(pairs):
        moments = [round(draw.uniform(0.3, 1) * longest, 3) for _ in range(2)]
        if number % 2:  # as it is drawn for the first time
            (run / "report.html").unlink()
        for seconds in moments:
            killed += _killed(words, seconds)
            now = {name: content for name, content in _files(run).items() if not name.endswith(".partial")}
            wrong += [f"{moments}: {name} is not whole" for name in now if now[name] != before.get(name)]
            recorded = (manifest.read(run) or {"files": {}})["files"]
            wrong += [f"{moments}: {name} is gone" for name in recorded if name not in now]
        wrong += [f"{moments}: ended by {code}" for code in [_run(words)] if code]
        wrong += [f"{moments}: another page or files than before"] * (_files(run) != before)
    found = "the run as it was, the same page drawn after"
    return figure("report killed twice at random moments", killed, wrong, found, least=pairs)


def _fetch(place: Path, pairs: int) -> Figure:
    what = "a data set killed twice at random moments as it is fetched"
    try:
        source = Path(user_folder(MNIST.name, published_files(MNIST), None).origin)
    except UserError:
        return Figure(what, 0, "no published files here, so not tried", True)
    draw, wrong, killed = random.Random(SEED), [], 0
    with _mirror(source) as url:
        for number in range(pairs):
            cache = place / f"cache{number}"
            environment = {"MOEJAX_CACHE_DIR": str(cache)}
            words = ["-c", _FETCH, url]
            if not number:
                longest = _seconds([*words, "mirror"], environment | {"MOEJAX_CACHE_DIR": str(place / "first")})
            moments = [round(draw.uniform(0.3, 1) * longest, 3) for _ in range(2)]
            killed += sum(_killed([*words, "mirror"], seconds, environment) for seconds in moments)
            codes = [_run([*words, kind], environment) for kind in ("mirror", "cache")]
            wrong += [f"{moments}: ended by {codes}"] * any(codes)
            wrong += [f"{moments}: {path} stayed" for path in cache.rglob("*.partial")]
    return figure(what, killed, wrong, "fetched whole after, nothing half-written left", least=pairs)


@contextlib.contextmanager
def _mirror(folder: Path) -> Iterator[str]:
    """An address that serves the files of a folder, slowly enough to be cut in the middle of one."""

    class Slow(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object):
            super().__init__(*given, directory=str(folder))

        def copyfile(self, source, outputfile) -> None:
            with contextlib.suppress(OSError):  # of a process that was killed
                while part := source.read(1 << 20):
                    outputfile.write(part)
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def _files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def _begun(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    quiet = {"PYTHONWARNINGS": "ignore", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | quiet | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _run(words: Sequence[str], environment: Mapping[str, str] = {}) -> int:
    return _begun(words, environment).wait(300)


def _seconds(words: Sequence[str], environment: Mapping[str, str] = {}) -> float:
    start = time.monotonic()
    _run(words, environment)
    return time.monotonic() - start


def _killed(words: Sequence[str], seconds: float, environment: Mapping[str, str] = {}) -> bool:
    """Whether it was killed, after so many seconds, before it ended by itself."""
    process = _begun(words, environment)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -9
