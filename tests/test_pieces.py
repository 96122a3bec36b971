"""Tokens as people read them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.pieces import PART, as_name, as_text, letters_of_bytes, pieces


def test_without_a_tokenizer_a_token_is_a_byte():
    assert pieces(None) == [bytes([n]) for n in range(256)]


def test_byte_pairs_are_those_of_the_tokenizer_and_the_first_is_the_end():
    letters = letters_of_bytes()
    assert len(set(letters.values())) == 256
    vocabulary = {"<|endoftext|>": 0, letters[32] + "a": 1, letters[0xC3] + letters[0xA9]: 2}
    assert pieces(json.dumps({"model": {"vocab": vocabulary}})) == [b"\0", b" a", "é".encode()]


@given(st.text(st.characters(exclude_characters=PART, exclude_categories=["Cs"])), st.data())
def test_a_text_cut_anywhere_is_the_same_text(text, data):
    content = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert "".join(as_text(filter(None, parts))).replace(PART, "") == text


def test_bytes_that_are_no_letter_are_seen():
    assert as_text([b"a", b"\xff", b"\xc3", b"\xa9"]) == ["a", "\\xff", PART, "é"]


@pytest.mark.parametrize(
    ("piece", "name"),
    [(b" def", "␣def"), (b"\n\t", "⏎⇥"), (b"\xc3", "0xc3"), (b"\0", "■"), (b"\x1b", "\\x1b"), ("é".encode(), "é")],
)
def test_names_are_on_one_line(piece, name):
    assert as_name(piece) == name
