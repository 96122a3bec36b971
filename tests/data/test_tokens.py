"""Token ids: a tokenizer of the sentences given, the same every time, and one of the user's."""

import json

import numpy as np
import pytest

from moejax.data import load, tokens
from moejax.data.dataset import rows
from moejax.errors import UserError

SENTENCES = ["The shop sold 20 books .", "A shop bought 20 books !", "Nobody sold the shop ."] * 3


def test_the_same_sentences_give_the_same_ids(monkeypatch, tmp_path):
    ids = []
    for n in range(3):
        monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path / str(n)))
        ids.append(tokens.encode(tokens.trained("x", SENTENCES, 60), SENTENCES, 12).tolist())
    assert ids[0] == ids[1] == ids[2]


def test_case_means_nothing_and_what_is_the_same_has_the_same_ids():
    first, second = tokens.encode(tokens.trained("x", SENTENCES, 100), ["THE shop .", "the SHOP ."], 6)
    np.testing.assert_array_equal(first, second)
    assert first.max() < 100
    assert (first[:3] > 0).all()
    assert (first[3:] == tokens.PAD).all()


def test_long_sentences_are_cut_and_unknown_letters_are_one_token():
    tokenizer = tokens.trained("x", SENTENCES, 100)
    rows = tokens.encode(tokenizer, ["books " * 9, "", "ψ"], 4)
    assert rows.shape == (3, 4)
    assert (rows[0] == rows[0, 0]).all()
    assert (rows[1] == 0).all()
    assert tokenizer.unk_token_id in rows[2]


def test_a_vocabulary_holds_every_letter_at_least(cache):
    with pytest.raises(
        UserError, match=r"^--data\.vocabulary=20 is too small for the 22 letters and marks of the sent"
    ):
        tokens.trained("x", SENTENCES, 20)
    assert tokens.encode(tokens.trained("x", SENTENCES, 22), SENTENCES, 40).max() < 22


def test_a_damaged_cache_is_made_again(cache):
    tokens.trained("x", SENTENCES, 60)
    (kept,) = (cache / "x").iterdir()
    text = kept.read_text()
    kept.write_text(text[:100])
    tokens.trained("x", SENTENCES, 60)
    assert kept.read_text() == text


def test_a_folder_of_the_user_s(cache, tmp_path):
    tokens.trained("x", SENTENCES, 60)
    (kept,) = (cache / "x").iterdir()
    (tmp_path / "tokenizer.json").write_bytes(kept.read_bytes())
    assert len(tokens.of_folder(str(tmp_path), 60)) == 51
    with pytest.raises(UserError, match=r"^--data\.vocabulary=50 is too small for the 51 tokens of .*json: give that"):
        tokens.of_folder(str(tmp_path), 50)
    with pytest.raises(UserError, match=r"^--data\.tokenizer=/nowhere has no readable tokenizer\.json"):
        tokens.of_folder("/nowhere", 60)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer \(.*\): save one there"):
        tokens.of_folder(str(tmp_path), 60)


def test_a_tokenizer_whose_token_0_is_no_padding(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"the": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"has 'the' as token 0, expected padding such as \[PAD\]"):
        tokens.encode(tokens.of_folder(str(tmp_path), 9), ["the"], 3)


def write_words(folder, words, **changes) -> str:
    """A tokenizer of these words, with other parts in place of some of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()) | changes))
    return str(folder)


def test_a_tokenizer_without_an_unknown_token_is_one_sentence(tmp_path):
    tokenizer = tokens.of_folder(write_words(tmp_path, {"[PAD]": 0, "the": 1}), 9)
    np.testing.assert_array_equal(tokens.encode(tokenizer, ["the the"], 3), [[1, 1, 0]])
    with pytest.raises(UserError, match=r"^The tokenizer cannot read the sentences \(.*\[UNK\].*\): leave --data\."):
        tokens.encode(tokenizer, ["the shop"], 3)


@pytest.mark.parametrize("charsmap", ["AAAA", "", "/////w=="])
def test_a_tokenizer_that_its_library_panics_at_is_one_sentence(tmp_path, capfd, charsmap):
    bad = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    folder = write_words(tmp_path, {"[PAD]": 0, "[UNK]": 1}, normalizer=bad)
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer \(Precompiled: .*\): save one there with"):
        tokens.of_folder(folder, 9)
    assert capfd.readouterr().err == ""  # not even the library's own stack


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{}", b"null", b"[" * 10**5, b"\x1f\x8b\0"])
def test_what_is_no_tokenizer_is_one_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer \(.+\): save one there"):
        tokens.of_folder(str(tmp_path), 60)


def test_what_is_no_file_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--data\.tokenizer=~nobody-of-that-name has no readable tokenizer\.json"):
        tokens.of_folder("~nobody-of-that-name", 60)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(
        UserError, match=r"has no readable tokenizer\.json \(.*json is a folder, expected a file\): name"
    ):
        tokens.of_folder(str(tmp_path), 60)
    folder = tmp_path / "long"
    folder.mkdir()
    monkeypatch.setattr(tokens, "LARGEST", 100)
    with pytest.raises(UserError, match=r"\(.*json is too long \(\d+ bytes, expected 100 at most\)\): name a folder"):
        tokens.of_folder(write_words(folder, {"[PAD]": 0, "[UNK]": 1}), 60)


def test_the_vocabulary_holds_every_id_that_the_tokenizer_gives(tmp_path):
    folder = write_words(tmp_path, {"[PAD]": 0, "[UNK]": 1, "the": 500})
    assert tokens.encode(tokens.of_folder(folder, 501), ["the"], 1) == 500
    with pytest.raises(UserError, match=r"--data\.vocabulary=500 is too small for the 501 tokens of"):
        tokens.of_folder(folder, 500)


def test_an_altered_tokenizer_in_the_cache_is_made_again(cache):
    ids = tokens.encode(tokens.trained("x", SENTENCES, 60), SENTENCES, 9)
    (kept,) = (cache / "x").iterdir()
    text = kept.read_text()
    altered = json.loads(text) | {"normalizer": None}  # a good tokenizer, but one that heeds case
    kept.write_text(json.dumps(altered))
    np.testing.assert_array_equal(tokens.encode(tokens.trained("x", SENTENCES, 60), SENTENCES, 9), ids)
    assert kept.read_text() == text


def test_without_validation_there_is_nothing_to_encode_and_all_to_train_on():
    whole, held = (load("mrpc", source="synthetic", validation=n) for n in (0, 408))
    assert whole.validation["first"].shape == (0, 48)
    assert rows(whole.train) == rows(held.train) + rows(held.validation)
