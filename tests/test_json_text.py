"""JSON, read: whatever Python cannot read is one kind of error."""

import pytest

from moejax.json_text import read_json


def test_what_it_says():
    assert read_json(b'{"a": [1, null]}') == read_json('{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_what_says_nothing_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)
