"""Token ids: a tokenizer of the sentences given, the same every time, and one of the user's."""

import numpy as np
import pytest

from moejax.data import tokens
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
