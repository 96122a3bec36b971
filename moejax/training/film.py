"""Which expert took each token of a few test examples, again and again on the way: frames of a film."""

import numpy as np
from flax import nnx
from numpy import ndarray

from moejax.data.dataset import Examples, is_text
from moejax.training.pictures import routing_of_samples

_MOST = 64  # frames
_WINDOWS = 2  # of text
NOBODY = -1  # took a token that was dropped


class Film:
    """Frames int16 [example, layer, token], who has most weight: at first one a chunk, later one every 2, 4, …"""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.frames: list[ndarray] = []
        self.every = 1  # chunks to a frame
        self.chunks = 0  # seen

    @classmethod
    def from_arrays(cls, arrays: dict[str, ndarray]) -> "Film":
        """Back from its arrays; empty where a run of an earlier version has none."""
        film = cls()
        if "film" in arrays:
            film.steps, film.frames = arrays["film_step"].tolist(), list(arrays["film"])
            film.every, film.chunks = arrays["film_chunks"].tolist()
        return film

    def wants(self) -> bool:
        """Whether the chunk that has just ended has a frame."""
        self.chunks += 1
        return (self.chunks - 1) % self.every == 0

    def append(self, step: int, frame: ndarray) -> None:
        """Add the frame after `step` steps; of a full film every other one stays."""
        self.steps.append(step)
        self.frames.append(frame)
        if len(self.frames) == _MOST:
            self.steps, self.frames, self.every = self.steps[::2], self.frames[::2], 2 * self.every

    def to_arrays(self) -> dict[str, ndarray]:
        """`film_step` [f], `film` [f, example, layer, token] and `film_chunks`; none without frames."""
        if not self.frames:
            return {}
        return {
            "film_step": np.array(self.steps, np.int64),
            "film": np.stack(self.frames),
            "film_chunks": np.array([self.every, self.chunks], np.int64),
        }


def frame(model: nnx.Module, test: Examples) -> ndarray | None:
    """int16 [example, layer, token] of the test examples whose routing a report shows; None if it shows none."""
    gates = routing_of_samples(model, test).get("sample_gate")
    if gates is None:
        return None
    gates = np.nan_to_num(gates[:_WINDOWS] if is_text(test) else gates)
    return np.where(gates.any(-1), gates.argmax(-1), NOBODY).astype(np.int16)
