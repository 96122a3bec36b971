"""Small data files of every kind: what writes them, and what of moejax reads them."""

import dataclasses
import gzip
import hashlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moejax import runs
from moejax.data import idx, load, minilm, mnist_wheel, pairs, table, tokens
from moejax.data.find import user_folder
from moejax.data.verify import File
from tests.torture.outcome import Read
from tests.torture.small_runs import image_run, say


def digest_of(value: Any) -> str:
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


def splits(data: Any) -> Any:
    """What was read of a data set."""
    return [data.train, data.validation, data.test, data.classes]


def images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """So many of noise, and their labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10


def _idx(packed: bool) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        names = []
        for split, n in (("train", 60), ("t10k", 20)):
            for what, array in zip(("images-idx3", "labels-idx1"), images(n), strict=True):
                names.append(f"{split}-{what}-ubyte" + ".gz" * packed)
                content = idx.encode(array)
                (folder / names[-1]).write_bytes(gzip.compress(content, mtime=0) if packed else content)
        return names

    return make


def _npz(folder: Path) -> list[str]:
    x, y = images(60)
    np.savez_compressed(folder / "some.npz", x=x, y=y)
    return ["some.npz"]


PICTURES = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")


def _pictures(folder: Path) -> list[str]:
    names, (x, _) = [], images(2 * 4 * len(PICTURES))
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
    return lambda folder: splits(load(name, dir=str(folder / file if file else folder), validation=5, **options))


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
