"""Whether the data sets can be had, from where a run would take them, and room for what it writes."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moejax.doctor.finding import Finding

_GB = 10**9
_LEAST_ROOM = _GB  # a run with all of its checkpoints
_MEND = "connect to a network once, or put its files in a folder and set MOEJAX_DATA_DIR to it."


def image_sets() -> Iterator[Finding]:
    """MNIST, of which a part is always here, and Fashion-MNIST."""
    from moejax.data import find, mnist

    for images in (mnist.MNIST, mnist.FASHION_MNIST):
        files = mnist.published_files(images)
        more = [("the package index", _index())] if "wheel" in images.auto else []
        embedded = "runs use 5,000 of its images, and their results are not comparable; " if more else ""
        yield _found(
            images.name,
            lambda images=images, files=files: find.user_folder(images.name, files, None),
            lambda images=images, files=files: find.cached(images.name, files, remove=False),
            [*((url, url) for url in images.mirrors), *more],
            embedded + _MEND,
        )


def text_pairs() -> Iterator[Finding]:
    """MRPC."""
    from moejax.data import find, mrpc

    pairs = mrpc.MRPC
    yield _found(
        pairs.name,
        lambda: find.user_folder(pairs.name, pairs.original, None, pairs.split),
        lambda: find.cached(pairs.name, pairs.original, remove=False),
        [(url, url) for mirror in pairs.mirrors for url in mirror.values()],
        _MEND,
    )


def folders() -> Iterator[Finding]:
    """Where data are kept and runs are written: can they be, and is there room."""
    from moejax.data.find import cache_folder

    for name, folder, variable in (("cache", cache_folder(""), "MOEJAX_CACHE_DIR"), ("here", Path.cwd(), "--out")):
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
        free, amiss = shutil.disk_usage(there).free, ""
        if not _writable(there):
            amiss = f"Nothing can be written there: change its permissions, or name another folder by {variable}."
        elif free < _LEAST_ROOM:
            amiss = f"That is little room for a run: delete old ones, or name another folder by {variable}."
        yield Finding(name, f"{folder}, {free / _GB:,.1f} GB free", amiss)


def _found(
    name: str,
    in_folder: Callable,
    in_cache: Callable,
    reach: Sequence[tuple[str, str]],
    otherwise: str,
) -> Finding:
    """Where the set is, its files looked at, or where it would come from: each a name and a URL."""
    from moejax.data import find, web
    from moejax.errors import UserError

    try:
        if find.named_folder(None):
            return Finding(name, f"whole, in {in_folder().origin}")
        return Finding(name, f"whole, in {in_cache().origin}")
    except find.UnavailableError as error:
        damaged = f"; {error.reason}" if error.notable else ""  # else it was not fetched yet
    except UserError as error:
        return Finding(name, f"MOEJAX_DATA_DIR={os.environ.get('MOEJAX_DATA_DIR')}", str(error))
    tried = []
    for place, url in reach:
        try:
            web.probe(url)
            return Finding(name, f"not here yet; it can be fetched from {place}{damaged}")
        except OSError as error:
            tried.append(str(error))
    return Finding(
        name, f"not here{damaged}", f"No place that has it answers ({'; '.join(dict.fromkeys(tried))}): {otherwise}"
    )


def _index() -> str:
    """The package index that pip uses."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    try:
        said = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    return said.strip() or "https://pypi.org/simple"


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
