"""Text to be continued: what is held out, the windows, bytes and byte pairs, and what is no text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.data import load, text
from moejax.data.dataset import rows
from moejax.data.text_tokens import END, BytePairs, Bytes, text_tokens
from moejax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    for i in range(60):
        (root / f"{i:02}.md").write_text("".join(f"line {i} of {j} — ö\n" for j in range(10)), encoding="utf-8")
    (root / "sub").mkdir()
    (root / "sub" / "more.md").write_text("more\n" * 20)
    (root / ".hidden").write_bytes(b"\xff")
    (root / "picture.png").write_bytes(b"\x89PNG\xff")
    return root


def test_names_that_are_no_utf_8_are_names(tmp_path):
    for i in range(30):
        (tmp_path / f"\udcff{i}.md").write_text("text\n" * 20)
    assert len(load("text", dir=str(tmp_path), pattern="*.md", length=16).test["label"])


def test_every_token_is_foretold_once_and_files_are_whole(folder):
    data = load("text", dir=str(folder), pattern="*.md", length=16)
    split, _ = text.divided({n: text.read(p) for n, p in text.files_of(folder, "*.md").items()}, 0.05)
    assert sum(map(len, split.values())) == 61
    for name in ("train", "validation", "test"):
        examples, whole = getattr(data, name), b"\0" + b"".join(t.encode() + b"\0" for t in split[name].values())
        assert len(whole) > 500
        tokens, label = examples["tokens"], examples["label"]
        assert tokens.dtype == label.dtype == np.uint8
        assert tokens.shape == label.shape == ((len(whole) - 1) // 16, 16)
        np.testing.assert_array_equal(tokens[:, 1:], label[:, :-1])
        if name != "train":  # whose windows are in another order
            assert label.tobytes() == whole[1 : label.size + 1]
    assert data.bytes_per_token(data.test) == 1
    again = load("text", dir=str(folder), pattern="*.md", length=16, seed=7)
    assert again.sha256 == data.sha256  # no seed has another test


def test_byte_pairs_say_the_same_in_fewer_tokens(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path))
    data = load("text", dir=str(folder), pattern="*.md", length=16, vocabulary=300)
    assert data.num_classes <= 300 < 2**16
    pairs, letters = text_tokens(data.tokenizer), Bytes()
    said = "line 3 — <|endoftext|> ö\n"
    assert pairs.decode(pairs.encode(said)) == letters.decode(letters.encode(said)) == said.encode()
    assert len(pairs.encode(said)) < len(letters.encode(said))
    assert pairs.lengths[pairs.encode(said)].sum() == len(said.encode())
    assert 2 < data.bytes_per_token(data.test) < 16
    assert list(tmp_path.rglob("tokenizer-*.json"))
    assert load("text", dir=str(folder), pattern="*.md", length=16, vocabulary=300).tokenizer == data.tokenizer


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_tokens_are_the_text_again(said):
    pairs = BytePairs.trained("nothing", ["a line"], 257)
    for tool in (pairs, Bytes()):
        ids = tool.encode(said)
        assert END not in ids
        assert tool.decode(ids).decode() == said


def test_one_file_is_cut_and_a_large_one_is_not_held_out(tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("".join(f"{i} " for i in range(3000)))
    data = load("text", dir=str(one), length=32)
    assert "the end of each is held out" in data.notes[0]
    assert b"29" in data.test["label"].tobytes()
    assert b"29" not in data.validation["label"].tobytes()[-32:]
    sizes = {"large": 10_000, **{f"small {i}": 100 for i in range(40)}}
    split, _ = text.divided({name: "x" * size for name, size in sizes.items()}, 0.05)
    assert "large" in split["train"]
    assert split["test"]
    assert split["validation"]


def test_validation_0_learns_from_all_but_the_test(folder):
    some, everything = (load("text", dir=str(folder), pattern="*.md", length=16, validation=v) for v in (1, 0))
    assert len(everything.validation["label"]) == 0
    assert len(everything.train["label"]) > len(some.train["label"])
    assert everything.test["label"].tobytes() == some.test["label"].tobytes()


def test_python_has_its_library():
    data = load("python", length=64)
    assert data.test["label"].size > 300_000
    assert data.source == "installed"
    assert b"import" in data.train["tokens"].tobytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "picture.png is not UTF-8 text (byte 0): save it as UTF-8, or leave it out by --data.pattern."),
        ({"pattern": "*.tex"}, "62 files, none of them *.tex (--data.pattern)"),
        ({"pattern": "more.md"}, "split of"),
        ({"pattern": "*.md", "length": 5000}, "less than a window of 5000 (--data.length)"),
        ({"pattern": "*.md", "held_out": 0.7}, "--data.held_out"),
    ],
)
def test_what_is_no_text_is_said(folder, options, sentence):
    with pytest.raises(UserError) as error:
        load("text", dir=str(folder), **({"length": 100} | options))
    assert sentence in str(error.value).replace("data.held_out is", "--data.held_out is")


def test_a_nul_and_a_missing_folder_are_said(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    with pytest.raises(UserError, match="has a NUL in it"):
        load("text", dir=str(tmp_path))
    with pytest.raises(UserError, match="is not there: name a file or a folder of text"):
        load("text", dir=str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs a file or a folder of text"):
        load("text")


def test_without_validation_a_text_that_is_cut_trains_on_all_but_the_test(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("".join(f"line {n}\n" for n in range(2000)))
    held, whole = (load("text", dir=str(file), length=16, validation=n) for n in (5000, 0))
    assert rows(whole.validation) == 0
    assert rows(whole.train) >= rows(held.train) + rows(held.validation)
    np.testing.assert_array_equal(whole.test["tokens"], held.test["tokens"])


def test_a_file_by_itself_that_does_not_fit_the_pattern_is_said(tmp_path):
    (tmp_path / "one.txt").write_text("word " * 1000)
    with pytest.raises(UserError, match=r"one\.txt is a file that does not fit \*\.md \(--data\.pattern\): leave"):
        load("text", dir=str(tmp_path / "one.txt"), pattern="*.md")
