"""From the words of a command line to a model's answers: pictures, folders, sentences, texts, standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moejax.data import DATASETS, pictures
from moejax.data.ink import doubts_of_ground
from moejax.errors import UserError, abridged, of_the_system, path_problem
from moejax.models import MODELS
from moejax.runs.answers import Answer, answers
from moejax.runs.model import Model

STANDARD_INPUT = "-"
_MOST_BYTES = 2**26  # of standard input or a text: 67 MB


def ask(model: Model, words: Sequence[str], stdin: BinaryIO | None = None) -> list[Answer]:
    """What the model says of each input that the words name.

    Args:
      words: of a model of images, paths of pictures and folders; of one of sentence pairs, sentences, two a pair; of a
        language model texts, or files of text. `-`: one picture, lines `a<TAB>b`, or a text, of `stdin`.

    Raises:
      UserError: a sentence for each input that cannot be read.
    """
    reads = MODELS[model.config.model.name].reads
    if reads == "image":
        return _of_pictures(model, words, stdin)
    if reads in ("first", "pieces"):
        return _of_pairs(model, words, stdin)
    if reads == "tokens":
        return [_of_text(model, word, stdin) for word in words]
    raise UserError(
        f"The model of this run reads {reads}, which are no words of a command line; in Python, give"
        " moejax.runs.load(…).predict an array."
    )


def _of_pictures(model: Model, words: Sequence[str], stdin: BinaryIO | None) -> list[Answer]:
    images, names, notes = [], [], []
    problems: list[str] = []
    for name, content in _contents(words, stdin, problems):
        try:
            image, said = image_of(model, content, name)
        except UserError as error:
            problems += error.sentences
        else:
            images.append(image)
            names.append(name)
            notes.append(said)
    if problems:
        raise UserError(*problems)
    found = answers(model, np.stack(images), names)
    return [answer._replace(image=image, notes=said) for answer, image, said in zip(found, images, notes, strict=True)]


def image_of(model: Model, content: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """The image that the model reads, from a picture's file, and sentences on what was done to it or looks odd.

    Raises:
      UserError: it cannot be read as a picture, is too large, or has nothing drawn on it; the sentence has its `name`.
    """
    ink = DATASETS[model.config.data.name].ink_of(model.config.data)
    if ink is None:
        image = pictures.decode(content, name, tuple(model.about.shapes["image"]))
        return image, doubts_of_ground(image, model.about.grounds or (0, 255))
    return ink.image_of(pictures.decode(content, name, pictures.shape_of(content, name)), name)


def _contents(words: Sequence[str], stdin: BinaryIO | None, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each picture; a sentence to `problems` for each that is not there."""
    for word in words:
        if word == STANDARD_INPUT:
            yield "standard input", _read(stdin)
            continue
        if problem := path_problem(word):
            problems.append(f"A picture is {problem}.")
            continue
        path, files = Path(word), [Path(word)]
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in pictures.ENDINGS and p.is_file())
            if not files:
                problems.append(
                    f"{path} has no pictures in it; their names end in {', '.join(sorted(pictures.ENDINGS))}."
                )
        for file in files:
            try:
                yield str(file), pictures.load(file)
            except UserError as error:
                problems += error.sentences


def _of_pairs(model: Model, words: Sequence[str], stdin: BinaryIO | None) -> list[Answer]:
    if STANDARD_INPUT in words:
        if len(words) > 1:
            raise UserError("- stands for all pairs, of standard input; give it alone, or sentences.")
        pairs = _pairs_of(text_of(stdin))
    elif len(words) % 2:
        raise UserError(
            f"{abridged(repr(words[-1]))}, the last sentence, has no other one; a pair is two, each a word of its own."
        )
    else:
        pairs = list(zip(words[::2], words[1::2], strict=True))
    batch = model.read(pairs)
    found = answers(model, batch, [" | ".join(pair) for pair in pairs])
    return [answer._replace(tokens=model.read.token_names(batch, n)) for n, answer in enumerate(found)]


def _of_text(model: Model, word: str, stdin: BinaryIO | None) -> Answer:
    name, text = _named(word, stdin)
    batch = model.read(text)
    (answer,) = answers(model, text, [name])
    return answer._replace(text=batch["tokens"][0, : batch["length"][0]])


def _named(word: str, stdin: BinaryIO | None) -> tuple[str, str]:
    """The name and the text of a word: standard input's, a file's, or the word itself."""
    if word == STANDARD_INPUT:
        return "standard input", text_of(stdin)
    if not os.path.isfile(word):
        return abridged(repr(word)), word
    try:
        with open(word, "rb") as file:
            return word, _decoded(_read(file, word), word)
    except OSError as error:
        raise UserError(of_the_system(error, word)) from None


def _pairs_of(text: str) -> list[tuple[str, str]]:
    """The pairs of lines `a<TAB>b`."""
    pairs = []
    for number, line in enumerate((line.removesuffix("\r") for line in text.split("\n")), start=1):
        if not line.strip():
            continue
        first, tab, second = line.partition("\t")
        if not tab or "\t" in second:
            raise UserError(f"Line {number} of standard input is {abridged(repr(line))}; write two sentences, a<TAB>b.")
        pairs.append((first, second))
    if not pairs:
        raise UserError("Standard input has no pairs; write two sentences a line, a<TAB>b.")
    return pairs


def text_of(stdin: BinaryIO | None) -> str:
    """All of standard input; UserError if it is no text."""
    return _decoded(_read(stdin), "Standard input")


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def _read(file: BinaryIO | None, name: str = "Standard input") -> bytes:
    try:
        content = (file or sys.stdin.buffer).read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(of_the_system(error, name)) from None
    if len(content) > _MOST_BYTES:
        raise UserError(f"{name} is longer than {_MOST_BYTES:,} bytes; give less at once.")
    return content
