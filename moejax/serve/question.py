"""What a request asks, from the bytes of its body; or a sentence on what is wrong with it."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from moejax.errors import UserError, abridged, did_you_mean
from moejax.json_text import read_json
from moejax.serve.settings import Setting

LONGEST = 2000  # characters of a sentence
_SETTINGS = ("k", "capacity_factor")
WRITING: Mapping[str, type] = {"tokens": int, "temperature": float, "top_p": float, "seed": int}
_LARGE = 2**62  # beyond which a whole number may be too large for a float


class Question(NamedTuple):
    """`content` of what the model reads: a picture file's bytes or rows of pixels; two sentences; or a text.

    `options` of what is written after a text, by name.
    """

    content: Any
    setting: Setting | None
    options: Mapping[str, Any] = {}


def question(body: bytes, reads: str, own: Setting | None) -> Question:
    """From JSON such as {"image": "…"} or {"texts": ["a", "b"]}, with "k" and "capacity_factor" to change them.

    Args:
      reads: `image`, `texts` or `text`, which the object must have.
      own: the setting of what is not changed; None if nothing can be.

    Raises UserError, in one sentence, for anything else.
    """
    asked = _object(body)
    return _known(asked, reads, _SETTINGS, own)


def to_go_on(body: bytes, own: Setting | None) -> Question:
    """The same of a text that is to be continued: {"text": "…"}, with any of `WRITING` and "k"."""
    asked = _object(body)
    return _known(asked, "text", (*_SETTINGS, *WRITING), own)._replace(options=_writing(asked))


def _known(asked: Mapping[str, Any], reads: str, others: Sequence[str], own: Setting | None) -> Question:
    known = (reads, *others)
    if strange := [name for name in asked if name not in known]:
        near = did_you_mean(strange[0], known)
        not_here = _SETTINGS if own is None else ("capacity_factor",) * (reads == "text")
        takes = ", ".join(name for name in known if name not in not_here)
        hint = f"did you mean {near}?" if near else f"this run takes {takes}."
        raise UserError(f"{abridged(repr(strange[0]))} is no part of a question; {hint}")
    if reads not in asked:
        raise UserError(f"The question has no {reads!r}; this run reads {_WANTED[reads]}.")
    if reads == "text" and "capacity_factor" in asked:
        raise UserError(
            "capacity_factor is for inputs that are whole; a text grows, and nothing is dropped: leave it out."
        )
    content = _READERS[reads](asked[reads])
    return Question(content, _setting(asked, own))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        asked = read_json(body, parse_constant=_refuse_constant)
    except ValueError as error:
        raise UserError(f"The body is no JSON ({abridged(str(error))}); send an object.") from None
    if not isinstance(asked, dict):
        raise UserError(f"The body is {abridged(repr(asked))}; send an object, such as {{…}}.")
    return asked


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _image(value: Any) -> bytes | list:
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise UserError(f"image is {abridged(repr(value))}; it must be {_WANTED['image']}.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"image is {abridged(repr(value))}, which is not base64; encode a picture file so.") from None


def _texts(value: Any) -> list[str]:
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)):
        raise UserError(f"texts is {abridged(repr(value))}; it must be {_WANTED['texts']}.")
    return [_whole(text, "A sentence") for text in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"text is {abridged(repr(value))}; it must be {_WANTED['text']}.")
    return _whole(value, "The text")


def _whole(text: str, what: str) -> str:
    if len(text) > LONGEST:
        raise UserError(f"{what} has {len(text):,} characters; give {LONGEST:,} at most.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{abridged(ascii(text))} holds half a letter (a lone surrogate); send whole ones.")
    return text


_WANTED = {
    "image": "a picture file in base64, or rows of pixels, 0 to 255, as the network reads them",
    "texts": "two sentences, such as ['a', 'b']",
    "text": "a string, such as 'def '",
}
_READERS = {"image": _image, "texts": _texts, "text": _text}


def _writing(asked: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in WRITING.items():
        if name not in asked:
            continue
        value, whole = asked[name], kind is int
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"{name} is {abridged(repr(value))}; it must be a {'whole ' if whole else ''}number.")
        found[name] = value if whole else float(max(min(value, _LARGE), -_LARGE))
    return found


def _setting(asked: Mapping[str, Any], own: Setting | None) -> Setting | None:
    if own is None:
        if given := [name for name in _SETTINGS if name in asked]:
            raise UserError(f"{given[0]} is for sparse layers, which this run has not; leave it out.")
        return None
    k, factor = asked.get("k", own.k), asked.get("capacity_factor", own.capacity_factor)
    if not isinstance(k, int) or isinstance(k, bool):
        raise UserError(f"k is {abridged(repr(k))}; it must be a whole number of experts.")
    if factor is not None and (not isinstance(factor, int | float) or isinstance(factor, bool)):
        raise UserError(f"capacity_factor is {abridged(repr(factor))}; it must be a number, or null: nothing dropped.")
    return Setting(k, None if factor is None else float(max(min(factor, _LARGE), -_LARGE)))
