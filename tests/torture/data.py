"""Every kind of data file damaged, and hostile ones: read right or one sentence; bombs bounded, nothing executed."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moejax import runs
from moejax.data import idx, load, minilm, mnist_wheel, pairs, table, tokens
from moejax.data.find import user_folder
from moejax.data.verify import File
from moejax.errors import UserError
from tests.torture.damage import damages
from tests.torture.figure import Figure
from tests.torture.small_runs import image_run, say

NAME = "data"
SEED = 23
SECONDS = 30  # that a file may take
MEGABYTES = 600  # that a hostile file may make the process grow by

Read = Callable[[Path], Any]


class TooLongError(Exception):
    """A file was not refused in time."""


def torture(quick: bool) -> Iterator[Figure]:
    """A figure for each kind of file, then one for files that were made to do harm."""
    flips, others = (3, 1) if quick else (60, 20)
    for name, (make, read, sealed) in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            names = make(folder)
            slow = name in SLOW
            yield _mutated(folder, name, names, read, sealed, *((1, 1) if slow and quick else (flips, others)))
    yield _hostile()


def _mutated(folder: Path, name: str, names: list[str], read: Read, sealed: bool, flips: int, others: int) -> Figure:
    """Each damage to each file; where the file is `sealed`, by a checksum, what is read must be what was written."""
    whole = {file: (folder / file).read_bytes() for file in names}
    expected = _content(read(folder))
    cases, right, wrong = 0, 0, []
    for damage in damages(folder, names, flips, others, SEED):
        if not damage.do(folder):
            (folder / damage.file).write_bytes(whole[damage.file])
            continue
        cases += 1
        outcome, value = _tried(read, folder)
        if outcome == "read" and (not sealed or _content(value) == expected):
            right += 1
        elif outcome != "sentence":
            wrong.append(f"{damage}: {outcome if outcome != 'read' else 'another content without a word'}")
        (folder / damage.file).write_bytes(whole[damage.file])
    return figure(name, cases, wrong, f"{cases - right} refused in a sentence, {right} read")


def _tried(read: Read, folder: Path) -> tuple[str, Any]:
    """`read` and what was read, `sentence`, or what escaped: an exception, or words to stderr."""
    with stderr() as printed:
        outcome = _read_in_time(read, folder)
    return (f"words to stderr: {printed[0]}", None) if printed else outcome


def _read_in_time(read: Read, folder: Path) -> tuple[str, Any]:

    def late(*_: object) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return "read", read(folder)
    except UserError as error:
        return ("sentence", None) if all(error.sentences) else ("an empty sentence", None)
    except BaseException:  # whatever escapes is what is looked for
        return traceback.format_exc(limit=-4), None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def stderr() -> Iterator[list[str]]:
    """What is printed there within, compiled libraries' words and warnings too."""
    printed: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True, action="always") as warned:
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            words = [*file.read().decode(errors="replace").splitlines(), *(str(one.message) for one in warned)]
            printed += filter(None, words)


def _content(value: Any) -> str:
    """A digest of what was read."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + pickle.dumps(part.tolist()))
        elif isinstance(part, dict):
            for key in sorted(part):
                digest.update(str(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def figure(what: str, cases: int, wrong: list[str], found: str) -> Figure:
    """The figure, after the cases that went wrong."""
    for one in wrong[:12]:
        print(f"  {NAME}: {what}: {one[:900]}", flush=True)
    return Figure(what, cases, found if not wrong else f"{len(wrong)} wrong", not wrong)


def _splits(data: Any) -> Any:
    return [data.train, data.validation, data.test, data.classes]


def _images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10


def _idx(packed: bool) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        names = []
        for split, n in (("train", 60), ("t10k", 20)):
            for what, array in zip(("images-idx3", "labels-idx1"), _images(n), strict=True):
                names.append(f"{split}-{what}-ubyte" + ".gz" * packed)
                content = idx.encode(array)
                (folder / names[-1]).write_bytes(gzip.compress(content, mtime=0) if packed else content)
        return names

    return make


def _npz(folder: Path) -> list[str]:
    x, y = _images(60)
    np.savez_compressed(folder / "some.npz", x=x, y=y)
    return ["some.npz"]


PICTURES = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")


def _pictures(folder: Path) -> list[str]:
    names, (x, _) = [], _images(2 * 4 * len(PICTURES))
    for i, image in enumerate(x):
        name = f"{'ab'[i % 2]}/{i}.{PICTURES[i // 8]}"
        (folder / name).parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 1, "as it lies"
        Image.fromarray(image).save(folder / name, **({"exif": exif} if name.endswith(("jpg", "png", "webp")) else {}))
        names += [name] * (i % 8 == 0)
    return names


def _texts(folder: Path) -> list[str]:
    for i in range(20):
        (folder / f"{i}.txt").write_text(f"Zeile {i}: Grüße an wen auch immer, ☃ und 🐍. " * 20, encoding="utf-8")
    return ["0.txt", "1.txt"]


def _table(ending: str) -> Callable[[Path], list[str]]:
    between = {"tsv": "\t", "csv": ","}

    def make(folder: Path) -> list[str]:
        rows = [("sentence1", "sentence2", "label")] + [(f"a cat {i}", f'a "dog" {i}', f"{i % 2}") for i in range(40)]
        if ending == "jsonl":
            lines = [f'{{"sentence1": "a {i}", "sentence2": "b {i}", "label": {i % 2}}}' for i in range(40)]
        else:
            quoted = [[f'"{v.replace(chr(34), 2 * chr(34))}"' for v in row] if ending == "csv" else row for row in rows]
            lines = [between[ending].join(row) for row in quoted]
        (folder / f"some.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [f"some.{ending}"]

    return make


def _read_table(ending: str) -> Read:
    return lambda folder: table.read(pairs.files_of(folder / f"some.{ending}")["train"])


def _tokenizer(folder: Path) -> list[str]:
    text = tokens._train([f"some words {i} and others" for i in range(50)], 80)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return ["tokenizer.json"]


def _read_tokenizer(folder: Path) -> Any:
    tool = tokens.of_folder(str(folder), 1000)
    return tokens.encode(tool, ["some words 3", "and Ünknown 🐍"], 12)


def _published(folder: Path) -> list[str]:
    return _idx(packed=True)(folder)


def _read_published(folder: Path) -> Any:
    return user_folder("tiny", _FILES, str(folder)).values


def _files() -> list:
    with tempfile.TemporaryDirectory() as place:
        names = _idx(packed=False)(Path(place))
        contents = {name: (Path(place) / name).read_bytes() for name in names}
    shapes = {name: (60 if "train" in name else 20, *((28, 28) if "images" in name else ())) for name in names}
    return [
        File(n, len(c), hashlib.sha256(c).hexdigest(), lambda b, where, n=n: idx.decode(b, shapes[n], where))
        for n, c in contents.items()
    ]


_FILES = _files()


def _wheel(folder: Path) -> list[str]:
    parts = [(np.zeros((n, 784), np.float32), np.zeros(n, np.int64)) for n in (5, 3, 2)]
    with zipfile.ZipFile(folder / "some.whl", "w") as archive:
        archive.writestr(mnist_wheel.MEMBER, gzip.compress(pickle.dumps(tuple(parts), 4), mtime=0))
    return ["some.whl"]


def _read_wheel(folder: Path) -> Any:
    """As a source does: by its hash before anything in it is looked at."""
    content = (folder / "some.whl").read_bytes() if (folder / "some.whl").exists() else b""
    known = _WHEELS.setdefault(str(folder), hashlib.sha256(content).hexdigest())
    before = mnist_wheel.wheel.download, mnist_wheel.WHEEL_SHA256
    mnist_wheel.wheel.download, mnist_wheel.WHEEL_SHA256 = lambda *_: content, known
    try:
        fixed = mnist_wheel.wheel.published("some==1", known, fix="no")
        return mnist_wheel.read_wheel(fixed)
    finally:
        mnist_wheel.wheel.download, mnist_wheel.WHEEL_SHA256 = before


_WHEELS: dict[str, str] = {}


def _weights(folder: Path) -> list[str]:
    from safetensors.numpy import save_file

    save_file({f"layer.{i}.weight": np.full((4, 4), i, np.float32) for i in range(8)}, folder / "model.safetensors")
    return ["model.safetensors"]


def _read_weights(folder: Path) -> Any:
    content = (folder / "model.safetensors").read_bytes() if (folder / "model.safetensors").exists() else b""
    return minilm.read_weights(content, "model.safetensors")


def _exported(folder: Path) -> list[str]:
    said = say("export", image_run(folder), "--format", "safetensors", "--out", folder / "model.safetensors")
    assert said.code == 0, said.err
    return ["model.safetensors"]


def _read_exported(folder: Path) -> Any:
    import jax

    model = runs.load(folder / "model.safetensors")
    return [model.step, *map(np.asarray, jax.tree.leaves(model.module)), model.config, dataclasses.astuple(model.about)]


def _set(name: str, file: str | None = None, **options: Any) -> Read:
    return lambda folder: _splits(load(name, dir=str(folder / file if file else folder), validation=5, **options))


# By kind: what writes the files, what reads them, and whether a checksum tells each damage.
KINDS: dict[str, tuple[Callable[[Path], list[str]], Read, bool]] = {
    "IDX": (_idx(packed=False), _set("idx"), False),
    "IDX, gz": (_idx(packed=True), _set("idx"), True),
    "published IDX, gz": (_published, _read_published, True),
    "npz": (_npz, _set("arrays", "some.npz"), True),
    "pictures": (_pictures, _set("images"), False),
    "text": (_texts, _set("text", length=16), False),
    "tsv": (_table("tsv"), _read_table("tsv"), False),
    "csv": (_table("csv"), _read_table("csv"), False),
    "jsonl": (_table("jsonl"), _read_table("jsonl"), False),
    "tokenizer.json": (_tokenizer, _read_tokenizer, False),
    "safetensors": (_weights, _read_weights, False),
    "exported model": (_exported, _read_exported, True),
    "wheel": (_wheel, _read_wheel, True),
}
SLOW = ("tsv", "csv", "jsonl", "exported model")


class _Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.file}",)


def _hostile() -> Figure:
    """Bombs and programs in place of data: a sentence, soon, without much memory, and nothing was run."""
    wrong, cases = [], 0
    with tempfile.TemporaryDirectory() as place:
        folder, canary = Path(place), Path(place) / "was-run"
        for what, (content, read) in _bombs(canary).items():
            file = folder / what.split()[-1]
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(content)
            before, cases = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, cases + 1
            outcome, _ = _tried(read, file)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            if outcome != "sentence" or grown > MEGABYTES or canary.exists():
                ran = ", and it was run" if canary.exists() else ""
                wrong.append(f"{what}: {outcome}, {grown:.0f} MB more{ran}")
            file.unlink()
            canary.unlink(missing_ok=True)
    return figure("bombs, and pickles that start a program", cases, wrong, "a sentence each, nothing was run")


def _bombs(canary: Path) -> dict[str, tuple[bytes, Read]]:
    nothing = gzip.compress(b"\0" * 2**26, mtime=0)

    def picture(kind: str) -> bytes:
        size = struct.pack(">II", 60_000, 60_000)
        head = b"IHDR" + size + b"\x08\x00\x00\x00\x00"
        body = b"IDAT" + zlib.compress(b"\0" * 10**6)
        chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body, b"IEND")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    def npz(array: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, x=array, y=np.zeros(3, np.int32), **options)
        return file.getvalue()

    def lying(shape: str) -> bytes:
        head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 100
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.npy", npy)
            archive.writestr("y.npy", npy)
        return file.getvalue()

    def zipped() -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(4):
                archive.writestr(f"x{i}.npy", b"\0" * 2**26)
        return file.getvalue()

    tensors = struct.pack("<Q", 2**60) + b"{}"
    wide = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    objects = np.array([_Canary(canary)] * 3, object)
    pickled = gzip.compress(pickle.dumps(_Canary(canary)), mtime=0)
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr(mnist_wheel.MEMBER, pickled)

    def arrays(file: Path) -> Any:
        return load("arrays", dir=str(file))

    def image(file: Path) -> Any:
        return load("images", dir=str(file.parent.parent))

    def of_idx(file: Path) -> Any:
        (file.parent / "train-labels-idx1-ubyte").write_bytes(idx.encode(_images(10)[1]))
        return load("idx", dir=str(file.parent))

    def weights(file: Path) -> Any:
        return minilm.read_weights(file.read_bytes(), str(file))

    def wheel(file: Path) -> Any:
        try:
            return mnist_wheel.read_wheel(file.read_bytes())
        except pickle.UnpicklingError as error:
            raise UserError(str(error)) from error  # a source compares the hash before: see `wheel` above

    def tokenizer(file: Path) -> Any:
        return tokens.of_folder(str(file.parent), 1000)

    many = struct.pack(">4I", 2051, 2**31, 2**10, 2**10)
    return {
        "a gz bomb train-images-idx3-ubyte.gz": (nothing, of_idx),
        "an endless IDX train-images-idx3-ubyte": (many, of_idx),
        "an npz of objects objects.npz": (npz(objects), arrays),
        "a pickle pickle.npz": (pickle.dumps(_Canary(canary)), arrays),
        "an array that lies lies.npz": (lying("(1099511627776, 28, 28)"), arrays),
        "an array of less than nothing less.npz": (lying("(-5, 28, 28)"), arrays),
        "a zip bomb bomb.npz": (zipped(), arrays),
        "a picture of 3.6 billion pixels big/a/x.png": (picture("png"), image),
        "a picture that is a program program/a/x.png": (b"%!PS\n(x) run\n", image),
        "a header of 2^60 bytes long.safetensors": (tensors, weights),
        "an array of 4 TB wide.safetensors": (struct.pack("<Q", len(wide)) + wide, weights),
        "the same as a run run.safetensors": (struct.pack("<Q", len(wide)) + wide, runs.load),
        "a wheel with a program some.whl": (member.getvalue(), wheel),
        "a deep tokenizer deep/tokenizer.json": (b'{"model":' * 10**5, tokenizer),
        "a program as a tokenizer program/tokenizer.json": (pickle.dumps(_Canary(canary)), tokenizer),
    }
