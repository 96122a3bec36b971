"""The answers of one run, as objects for JSON."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from moejax.data import DATASETS, pictures
from moejax.errors import UserError, abridged
from moejax.models import MODELS
from moejax.routers.router import all_experts
from moejax.runs.answers import answers, as_json, grid_of, layer_name
from moejax.runs.ask import image_of
from moejax.runs.model import Model
from moejax.serve.question import Question
from moejax.serve.reading import going_on, reading
from moejax.serve.settings import Variants

MOST_PIXELS = 2**22  # of a picture: 4 million, which take some 60 MB while they are made into an image
_READS = {"image": "image", "first": "texts", "pieces": "texts", "tokens": "text"}


class Service:
    """A model, asked by one at a time.

    Attributes:
      reads: `image`, `texts` or `text`.
      answered: how many questions had an answer.
    """

    def __init__(self, model: Model, name: str):
        what = MODELS[model.config.model.name].reads
        if what not in _READS:
            raise UserError(
                f"The model of this run reads {what}; a page can ask for images, sentence pairs and text only."
            )
        self.reads, self.name, self.answered = _READS[what], name, 0
        if self.reads == "texts":
            model.read(("a", "b"))  # which says so where the run has no tokenizer
        if self.reads == "text":
            _ = model.writer  # which says so where no text can be written
        self._model, self._lock = model, threading.Lock()
        self.variants = Variants(model)

    def about(self) -> dict[str, Any]:
        """What the run is, and what of it can be changed."""
        config, about = self._model.config, self._model.about
        ink = DATASETS[config.data.name].ink_of(config.data)
        dark = ink is not None or np.mean(about.grounds or (0,)) < 128
        return {
            "run": self.name,
            "config": config.name,
            "step": self._model.step,
            "data": config.data.name,
            "reads": self.reads,
            "shape": about.image_shape,
            "digits": ink is not None and ink.by_mass and about.num_classes == 10,
            "ground": "dark" if dark else "light",
            "model": config.model.name,
            "layer": config.moe.layer,
            "router": getattr(config.moe, "router", None),
            "num_experts": all_experts(config.moe),
            "classes": list(about.classes),
            "settings": self._offered(),
        }

    def _offered(self) -> dict[str, Any]:
        """What a page may change; not the capacity of layers that read text, where nothing is dropped."""
        dropped = ("capacity_factor",) if self.reads == "text" else ()
        return {name: of_one for name, of_one in self.variants.offered.items() if name not in dropped}

    def answer(self, asked: Question) -> dict[str, Any]:
        """As `moejax predict --json`, with the image that the network saw, the layers' names, and the time it took.

        Of text as `moejax.serve.reading.reading`. Raises UserError for a picture that is none, sentences without a
        word, and a setting that cannot be.
        """
        with self._lock:
            model = self.variants(asked.setting)
            if self.reads == "text":
                said = reading(model, asked.content) | ({} if asked.setting is None else {"k": asked.setting.k})
                self.answered += 1
                return said
            image: np.ndarray | None = None
            notes: list[str] = []
            tokens: list[str] = []
            if self.reads == "image":
                image, notes = self._image(asked.content)
                batch = {"image": image[None]}
            else:
                batch = model.read(asked.content)
                tokens = model.read.token_names(batch, 0)
            begun = time.perf_counter()
            (found,) = answers(model, batch, ["the question"])
            milliseconds = 1000 * (time.perf_counter() - begun)
            self.answered += 1
        most = max(found.prediction.probabilities.shape)
        said = as_json(model, found._replace(notes=notes), most)
        for number, (layer, route) in enumerate(zip(said["layers"], found.routes, strict=True)):
            layer |= {"name": layer_name(model, number), "grid": grid_of(model, route)}
        return said | {
            "image": None if image is None else image.tolist(),
            "tokens": tokens,
            "milliseconds": round(milliseconds, 2),
            **({} if asked.setting is None else asked.setting._asdict()),
        }

    def go_on(self, asked: Question) -> Iterator[dict[str, Any]]:
        """What follows a text, as `moejax.serve.reading.going_on`; others are answered between two tokens."""
        if self.reads != "text":
            raise UserError(f"This run reads {self.reads}, and writes no text; ask /api/predict.")
        with self._lock:
            steps = going_on(self.variants(asked.setting), asked.content, **asked.options)
            first = next(steps)  # raises what is wrong with the prompt
        return itertools.chain([first], self._one_by_one(steps))

    def _one_by_one(self, steps: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        while True:
            with self._lock:
                step = next(steps, None)
            if step is None:
                self.answered += 1
                return
            yield step

    def _image(self, content: bytes | list) -> tuple[np.ndarray, list[str]]:
        if isinstance(content, list):
            return _pixels(content, tuple(self._model.about.shapes["image"])), []
        rows, columns = pictures.shape_of(content, _PICTURE)
        if rows * columns > MOST_PIXELS:
            raise UserError(
                f"{_PICTURE} has {columns:,} × {rows:,} pixels, more than {MOST_PIXELS:,}: make it smaller."
            )
        return image_of(self._model, content, _PICTURE)


_PICTURE = "The picture"


def _pixels(rows: list, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of whole numbers from 0 to 255 as the image that the network reads."""
    try:
        image = np.asarray(rows)
    except ValueError:
        image = np.asarray(None)
    if image.shape != shape or image.dtype.kind not in "iu" or image.min() < 0 or image.max() > 255:
        want = " × ".join(map(str, shape))
        raise UserError(f"image is {abridged(repr(rows))}; rows of pixels must be {want} whole numbers from 0 to 255.")
    return image.astype(np.uint8)
