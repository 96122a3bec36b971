"""The arrays of a published model on disk."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


class PublishedFiles(Mapping[str, np.ndarray]):
    """A folder's `*.safetensors` as one state dict, each array read when it is asked for: one layer of a large model
    costs the memory of that layer.
    """

    def __init__(self, folder: Path | str):
        from safetensors import safe_open

        files = [safe_open(path, "numpy") for path in sorted(Path(folder).glob("*.safetensors"))]
        if not files:
            raise ValueError(f"folder is {folder}, which holds no *.safetensors.")
        self._file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (no mapping)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
