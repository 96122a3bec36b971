"""Files: the old one or the new one, whole, at the path that was asked for; and what is said where neither can be."""

import contextlib
import errno
import functools
import os
import threading

import pytest

from moejax.errors import UserError
from moejax.files import make_folder, place_for, sweep, sync, write_whole


def full(number):
    raise OSError(28, "No space left on device")


def test_a_file_is_on_the_disk_before_it_replaces_another_and_stays_if_it_cannot(tmp_path, monkeypatch):
    file, calls = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    write_whole(file, "old")
    write_whole(file, "ä")
    assert calls == ["fsync", "replace", "fsync"] * 2  # the second one of the folder, which has the name
    assert file.read_bytes() == "ä".encode()

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as raised:
        write_whole(file, "new")
    assert raised.value.filename == str(file)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.txt", "ä".encode())]


def test_a_folder_that_cannot_be_synced_is_no_error_and_one_that_fails_is(tmp_path, monkeypatch):
    for number, raised in ((errno.EINVAL, False), (errno.EIO, True)):
        monkeypatch.setattr(os, "fsync", functools.partial(failing, number))
        with pytest.raises(OSError, match="error") if raised else contextlib.nullcontext():
            sync(tmp_path)
    monkeypatch.undo()
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def failing(number, handle):
    raise OSError(number, os.strerror(number))


def test_any_name_that_a_file_may_have_can_be_written(tmp_path):
    file = place_for("--out", str(tmp_path / ("ä" * 127)))
    write_whole(file, "new")
    assert file.read_text(encoding="utf-8") == "new"


def test_behind_a_link_the_file_itself_is_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    place_for("--out", str(pipe))
    write_whole(pipe, "new")
    reader.join(10)
    assert read == [b"new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("path", "folder", "problem"),
    [
        ("new", False, None),
        ("file", False, None),
        ("folder", False, "folder: Is a directory."),
        ("none/new", False, "none: No such file or directory."),
        ("file/new", False, "file: Not a directory."),
        ("locked", False, "locked: Permission denied."),
        ("none/new", True, None),
        ("folder", True, None),
        ("file", True, "file: Not a directory."),
        ("file/none/new", True, "file: Not a directory."),
        ("locked_folder/none/new", True, "locked_folder: Permission denied."),
    ],
)
def test_a_place_is_looked_at_before_the_work(tmp_path, monkeypatch, path, folder, problem):
    for name in ("file", "locked"):
        (tmp_path / name).write_text("old")
    for name in ("folder", "locked_folder"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: "locked" not in str(place))  # root may write everywhere
    before = sorted(tmp_path.rglob("*"))
    if problem is None:
        place_for("--out", str(tmp_path / path), folder=folder)
    else:
        with pytest.raises(UserError) as raised:
            place_for("--out", str(tmp_path / path), folder=folder)
        assert str(raised.value) == f"Cannot write to --out {tmp_path / path}: {tmp_path}/{problem}"
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_process_left_is_swept_away_and_a_write_meanwhile_is_made_again(tmp_path, monkeypatch):
    (tmp_path / ".file.0a1b2c3d.partial").write_text("ha", encoding="utf-8")
    fsync = os.fsync

    def swept(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        sweep(tmp_path)

    monkeypatch.setattr(os, "fsync", swept)
    write_whole(tmp_path / "file", "whole")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("file", "whole")]
