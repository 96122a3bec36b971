"""Finding files: the user's folder is right or an error, the cache heals itself, mirrors are tried in turn."""

import gzip
import os
from pathlib import Path

import pytest

from moejax.data import find, mnist
from moejax.data.find import UnavailableError
from moejax.errors import UserError

IMAGES, LABELS = mnist.SPLITS["train"]


@pytest.fixture
def files(tiny):
    return mnist.published_files(tiny.images)


def check(found: find.Found, tiny) -> None:
    assert {name: array.tolist() for name, array in found.values.items()} == {
        name: array.tolist() for name, array in tiny.arrays.items()
    }


def served(tiny, **changes) -> dict[str, bytes | None]:
    """What a good mirror serves, but for changes: name without .gz (_ for -) → body, or `...` to leave it out."""
    bodies = {f"{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    bodies |= {f"{name.replace('_', '-')}.gz": body for name, body in changes.items()}
    return {name: body for name, body in bodies.items() if body is not ...}


# The user's folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["tiny", "."])
def test_a_folder_may_hold_the_set_or_be_the_set(tiny, files, tmp_path, packed, layout):
    folder = tiny.write(tmp_path / "data" / layout, packed=packed)
    found = find.user_folder("tiny", files, str(tmp_path / "data"))
    check(found, tiny)
    assert Path(found.origin) == folder


def test_the_argument_wins_over_the_environment(tiny, files, tmp_path, monkeypatch):
    tiny.write(tmp_path / "tiny")
    monkeypatch.setenv("MOEJAX_DATA_DIR", str(tmp_path))
    check(find.user_folder("tiny", files, None), tiny)
    with pytest.raises(UserError, match=r"^--data\.dir=/nowhere is not a folder: name one that holds tiny/\.$"):
        find.user_folder("tiny", files, "/nowhere")


def test_the_environment_is_named_where_it_is_at_fault(files, monkeypatch):
    monkeypatch.setenv("MOEJAX_DATA_DIR", "/nowhere")
    with pytest.raises(UserError, match=r"^MOEJAX_DATA_DIR=/nowhere is not a folder"):
        find.user_folder("tiny", files, None)


def test_no_folder_named(files):
    with pytest.raises(
        UserError, match=r"^--data\.source=dir needs a folder that holds tiny/: name it with --data\.dir"
    ):
        find.user_folder("tiny", files, None)


def test_a_folder_without_the_set(files, tmp_path):
    with pytest.raises(UserError, match=r"has no folder tiny/ with the files of tiny: put train-images-idx3-ubyte\.gz"):
        find.user_folder("tiny", files, str(tmp_path))


def test_a_file_is_missing(tiny, files, tmp_path):
    tiny.write(tmp_path / "tiny", without=LABELS)
    with pytest.raises(UserError, match=rf"lacks {LABELS}\.gz \(or {LABELS}\) in .*tiny: put it there") as error:
        find.user_folder("tiny", files, str(tmp_path))
    assert not isinstance(error.value, UnavailableError)


def test_a_folder_in_place_of_a_file(tiny, files, tmp_path):
    (tiny.write(tmp_path / "tiny", without=LABELS) / f"{LABELS}.gz").mkdir()
    with pytest.raises(UserError, match=rf"{LABELS}\.gz is a folder, expected a file: put the published file"):
        find.user_folder("tiny", files, str(tmp_path))


def test_a_pipe_or_a_very_long_file_is_not_read(tiny, files, tmp_path):
    path = tiny.write(tmp_path / "tiny", without=LABELS) / LABELS
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{LABELS} is a device or pipe, expected a file: put the published file"):
        find.user_folder("tiny", files, str(tmp_path))
    path.unlink()
    with open(path, "wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(UserError, match=rf"{LABELS} is too long \(1099511627776 bytes, expected \d+ at most\): down"):
        find.user_folder("tiny", files, str(tmp_path))


@pytest.mark.parametrize("directory", ["~nobody-of-that-name/data", "n" * 300, "a\0b"])
def test_what_cannot_be_a_folder_is_none(files, directory, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is not a folder: name one that holds tiny/"):
        find.user_folder("tiny", files, directory)
    monkeypatch.setenv("MOEJAX_CACHE_DIR", directory.replace("\0", "/dev/null"))
    with pytest.raises(UnavailableError, match=r"has no train-images-idx3-ubyte"):
        find.cached("tiny", files)
    find.keep("tiny", "file", b"one")


def test_a_folder_without_permission(tiny, files, tmp_path, monkeypatch):
    tiny.write(tmp_path / "tiny")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(UserError, match=r"tiny cannot be read \(permission denied\): change its permissions\.$"):
        find.user_folder("tiny", files, str(tmp_path))


def test_a_link_to_nothing(tiny, files, tmp_path):
    (tiny.write(tmp_path / "tiny", without=LABELS) / LABELS).symlink_to("nothing")
    with pytest.raises(UserError, match=rf"{LABELS} cannot be read \(No such file or directory\)"):
        find.user_folder("tiny", files, str(tmp_path))


def test_no_permission(tiny, files, tmp_path, monkeypatch):
    tiny.write(tmp_path / "tiny")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"cannot be read \(permission denied\): change its permissions\.$"):
        find.user_folder("tiny", files, str(tmp_path))


# The cache


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"MOEJAX_CACHE_DIR": "/m", "XDG_CACHE_HOME": "/x"}, "/m/mnist"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/moejax/mnist"),
        ({}, "/home/me/.cache/moejax/mnist"),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, folder):
    monkeypatch.delenv("MOEJAX_CACHE_DIR")
    for variable, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(variable, value)
    assert find.cache_folder("mnist") == Path(folder)


def test_a_full_cache_serves(tiny, files, cache):
    tiny.write(cache / "tiny")
    found = find.cached("tiny", files)
    check(found, tiny)
    assert found.origin == str(cache / "tiny")


def test_an_empty_cache_is_nothing_to_mention(files):
    with pytest.raises(UnavailableError, match=rf"has no {IMAGES}; .*: pass --data.source=auto") as error:
        find.cached("tiny", files)
    assert not error.value.notable


def test_every_damaged_file_is_removed_from_the_cache(tiny, files, cache):
    folder = tiny.write(cache / "tiny")
    for name in (IMAGES, LABELS):
        (folder / f"{name}.gz").write_bytes((folder / f"{name}.gz").read_bytes()[:-9])
    with pytest.raises(UnavailableError, match=r"A damaged file in the cache was removed: .* is a truncated") as error:
        find.cached("tiny", files)
    assert error.value.notable
    assert "download it again" not in str(error.value)  # the sentence about a user's own file has another fix
    assert sorted(path.name[:5] for path in folder.iterdir()) == ["t10k-", "t10k-"]


def test_a_damaged_file_that_cannot_be_removed(tiny, files, cache):
    (tiny.write(cache / "tiny", without=LABELS) / LABELS).mkdir()
    with pytest.raises(UnavailableError, match="A damaged file in the cache could not be removed") as error:
        find.cached("tiny", files)
    assert error.value.notable


@pytest.mark.parametrize("step", ["fsync", "replace"])  # half written; written
def test_an_interrupted_write_leaves_nothing(cache, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        find.keep("tiny", "file", b"half and half")
    assert list((cache / "tiny").iterdir()) == []


def test_what_a_killed_process_left_half_written_goes_with_the_next_file(cache):
    (cache / "tiny").mkdir(parents=True, exist_ok=True)
    (cache / "tiny" / ".other.0123abcd.partial").write_bytes(b"half")
    find.keep("tiny", "file", b"whole")
    assert {path.name for path in (cache / "tiny").iterdir() if path.name.endswith(("partial", "file"))} == {"file"}


def test_keep_replaces_and_needs_no_cache_to_succeed(cache):
    for raw in (b"one", b"two"):
        find.keep("tiny", "file", raw)
    assert [(path.name, path.read_bytes()) for path in (cache / "tiny").iterdir()] == [("file", b"two")]
    (cache / "full").write_bytes(b"a file where the folder should be")
    find.keep("full", "file", b"one")


# The mirrors


def test_a_mirror_fills_the_cache(tiny, files, serve):
    url = serve(served(tiny))
    found = find.mirrored("tiny", files, [url])
    check(found, tiny)
    assert found.origin == url
    check(find.cached("tiny", files), tiny)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (..., "HTTP Error 404"),
        (None, "truncated gzip file"),
        (b"<html>log in to the hotel's network</html>", "not an IDX file"),
        (gzip.compress(b"\0" * 10**5), "unpacks to more than"),
    ],
    ids=["missing", "cut off", "another page", "too long"],
)
def test_a_bad_mirror_is_followed_by_the_next(tiny, files, serve, cache, body, reason):
    bad = serve(served(tiny, t10k_images_idx3_ubyte=body))
    with pytest.raises(UnavailableError, match=reason):
        find.mirrored("tiny", files, [bad])
    assert not list(cache.glob("*/t10k-images*"))
    good = serve(served(tiny))
    assert find.mirrored("tiny", files, [bad, good]).origin == good


def test_without_a_network_every_mirror_is_named(files):
    mirrors = ["http://127.0.0.1:1/a/", "http://127.0.0.1:1/b/"]
    with pytest.raises(
        UnavailableError, match=r"No mirror served the files \(.*/a/: cannot connect.*/b/: cannot.*\): "
    ):
        find.mirrored("tiny", files, mirrors)


# One source after another


def test_first_that_works_takes_the_first_and_hands_on_what_is_notable():
    def unavailable(reason: str, notable: bool):
        def source():
            raise UnavailableError(reason, "wait", notable=notable)

        return source

    sources = {
        "a": unavailable("a is empty", False),
        "b": unavailable("b was broken", True),
        "c": lambda: 3,
        "d": lambda: pytest.fail("d was asked"),
    }
    assert find.first_that_works("tiny", sources) == ("c", 3, ("B was broken.",))
    with pytest.raises(UserError) as error:
        find.first_that_works("tiny", {key: sources[key] for key in "ab"})
    assert error.value.sentences == (
        "No source could serve the data set 'tiny'; tried, in order:",
        "  a: a is empty.",
        "  b: b was broken.",
        "Put the files in a folder and pass it as --data.dir, or run once with a network (what it fetches is kept).",
    )
    with pytest.raises(UnavailableError, match=r"^A is empty: wait\.$"):
        find.first_that_works("tiny", {"a": sources["a"]})


def test_first_that_works_stops_at_what_is_wrong():
    def wrong():
        raise UserError("This is broken: mend it.")

    with pytest.raises(UserError, match="This is broken"):
        find.first_that_works("tiny", {"a": wrong, "b": lambda: 2})
