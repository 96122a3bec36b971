"""A manifest: read as it was written, or not at all."""

import pytest

from moejax import manifest


def test_it_is_read_as_it_was_written(tmp_path):
    (tmp_path / "a").write_text("a")
    manifest.write(tmp_path, accuracy=0.5)
    assert manifest.read(tmp_path) == {"accuracy": 0.5, "files": manifest.digests(tmp_path)}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"sha256":' * 100_000, b"9" * 5000])
def test_one_that_is_damaged_is_none(tmp_path, content):
    (tmp_path / manifest.NAME).write_bytes(content)
    (tmp_path / "a.json").write_text("{}")
    assert manifest.read(tmp_path) is None
    assert manifest.object_in(tmp_path / "a.json") == ({}, "")
