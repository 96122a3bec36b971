"""Only the published content is accepted, packed or not, whatever byte is damaged."""

import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.data.verify import File, accept, unpack
from moejax.errors import UserError

CONTENT = b"the published content " * 9
PACKED = gzip.compress(CONTENT, mtime=0)
FILE = File("text", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), lambda content, where: content.decode("latin1"))
VALUE = CONTENT.decode()


@pytest.mark.parametrize("raw", [CONTENT, PACKED, gzip.compress(CONTENT, 1, mtime=9)], ids=["plain", "gz", "repacked"])
def test_the_published_content_is_accepted_in_any_packing(raw):
    assert accept(raw, FILE, "x") == VALUE


@given(st.integers(0, len(PACKED) - 1))
def test_a_gzip_file_cut_anywhere_is_an_error(cut):
    with pytest.raises(UserError, match=r"^x .*: .*\.$"):
        accept(PACKED[:cut], FILE, "x")


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_damaged_byte_gives_the_published_content_or_an_error(at, flip):
    damaged = PACKED[:at] + bytes([PACKED[at] ^ flip]) + PACKED[at + 1 :]
    try:
        value = accept(damaged, FILE, "x")
    except UserError:
        return
    assert value == VALUE  # the byte was gzip's own date, say


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "x is empty: download it again."),
        (PACKED[:40], "x is a truncated gzip file (40 bytes): download it again."),
        (PACKED + b"?!", "x has 2 bytes after the end of its gzip data: download it again."),
        (gzip.compress(b"0" * 10**6), "x unpacks to more than the expected 198 bytes: download it again."),
    ],
)
def test_what_is_wrong_is_one_sentence(raw, sentence):
    with pytest.raises(UserError) as error:
        unpack(raw, len(CONTENT), "x")
    assert str(error.value) == sentence


def test_corrupted_gzip():
    with pytest.raises(UserError, match=r"x is a corrupted gzip file \(.*incorrect data check\): download it again\."):
        unpack(PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], len(CONTENT), "x")


def test_another_content_of_the_right_form_is_named_by_its_checksum():
    other = CONTENT.replace(b"the", b"The")
    with pytest.raises(UserError, match="can be read but is corrupted or not the published file") as error:
        accept(gzip.compress(other), FILE, "x")
    assert hashlib.sha256(other).hexdigest() in str(error.value)
    assert FILE.sha256 in str(error.value)


def test_what_the_decoder_says_comes_before_the_checksum():
    def decode(content: bytes, where: str) -> str:
        raise UserError(f"{where} has no header: add one.")

    with pytest.raises(UserError, match="x has no header: add one"):
        accept(b"?", File("text", 1, "0" * 64, decode), "x")
