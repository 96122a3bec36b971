"""What tokens of text stand for, and how people read them: of a run's files and a tokenizer.json, nothing else.

A piece is the bytes of a token. Token 0 stands between texts: its piece is a NUL, which no text holds.
"""

import codecs
import json
from collections.abc import Iterable

NUL = b"\0"
PART = "·"  # of a letter that later tokens complete
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\0": "■"}


def pieces(tokenizer: str | None) -> list[bytes]:
    """By token, of byte pairs that the text of a tokenizer.json describes; None: the 256 bytes."""
    if tokenizer is None:
        return [bytes([byte]) for byte in range(256)]
    described = json.loads(tokenizer)
    ids = dict(described["model"]["vocab"])
    byte_of = {letter: byte for byte, letter in letters_of_bytes().items()}
    found = [NUL] * (1 + max(ids.values()))
    for piece, token in ids.items():
        if token:
            found[token] = bytes(byte_of[letter] for letter in piece)
    return found


def letters_of_bytes() -> dict[int, str]:
    """The letter that stands for each byte in a tokenizer.json: itself if it is printed, else one from 256 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printed)
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def as_text(parts: Iterable[bytes]) -> list[str]:
    """The text that each piece of a text ends: `PART` where it ends no letter, \\xff where its bytes are none."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return [decoder.decode(part) or PART for part in parts]


def as_name(piece: bytes) -> str:
    """A piece by itself, on one line: `␣def`, `⏎`, `0xc3`."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "0x" + piece.hex()
    return "".join(map(shown, text))


def shown(letter: str) -> str:
    """The letter, or a sign for one that is not seen."""
    if letter in _SIGNS:
        return _SIGNS[letter]
    return letter if letter.isprintable() else ascii(letter)[1:-1]
