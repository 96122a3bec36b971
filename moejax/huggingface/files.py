"""The arrays of a published model on disk."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class PublishedFiles(Mapping[str, np.ndarray]):
    """A folder's `*.safetensors` as one state dict, each array read when it is asked for: one layer of a large model
    costs the memory of that layer.
    """

    def __init__(self, folder: Path | str):
        """Raises ValueError, in one sentence, for a folder without such files, one that is broken or not there yet (a
        pointer of Git LFS), and an array that is in two of them.
        """
        self._file_of: dict[str, Any] = {}
        where = dict[str, str]()
        for path in sorted(Path(folder).glob("*.safetensors")):
            file = _opened(path)
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name in where:
                    raise ValueError(f"{folder} has {name} in {where[name]} and in {path.name}; keep one of them.")
                self._file_of[name], where[name] = file, path.name
        if not where:
            raise ValueError(f"folder is {folder}, which holds no *.safetensors.")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); fetch it again, whole.") from None
