"""MRPC's own part: both layouts give the same pairs, every source serves them, and without any it is one error."""

import dataclasses
import functools
import gzip
import hashlib
import importlib.util

import datasets
import numpy as np
import pytest

from moejax import data
from moejax.data import mrpc, pair_table, synthetic_pairs
from moejax.data.dataset import Dataset
from moejax.data.verify import File
from moejax.errors import UserError

COUNTS = {"train": 6, "validation": 2, "test": 3}
OPTIONS = {"tokenizer": None, "vocabulary": 300, "length": 8}
HEADER = "\t".join(pair_table.HEADER)


def line(i: int) -> str:
    return f'{i % 2}\t{i}\t{100 + i}\tSentence " {i} .\tThe number {i} " .'


def table(numbers) -> str:
    return "\n".join([HEADER, *map(line, numbers)]) + "\n"


TRAIN, DEV, TEST = [0, 1, 3, 4, 6, 7], [2, 5], [8, 9, 10]
CONTENTS = {
    "msr_paraphrase_train.txt": "\ufeff" + table(sorted(TRAIN + DEV)),
    "msr_paraphrase_test.txt": "\ufeff" + table(TEST),
    "dev_ids.tsv": "5\t105\n2\t102\n",
    "train.tsv": table(TRAIN),
    "dev.tsv": table(DEV),
    "test.tsv": table(TEST),
}
ORIGINAL, SPLIT = list(CONTENTS)[:3], list(CONTENTS)[3:]


def file(name: str, pairs: int) -> File:
    content = CONTENTS[name].encode()
    decode = functools.partial(pair_table.decode, pairs, name.endswith(".txt"))
    if name == "dev_ids.tsv":
        decode = functools.partial(pair_table.decode_ids, pairs)
    return File(name, len(content), hashlib.sha256(content).hexdigest(), decode)


TINY = mrpc.PairSet(
    name="mrpc",
    original=tuple(map(file, ORIGINAL, (8, 3, 2))),
    split=tuple(map(file, SPLIT, (6, 2, 3))),
    counts=COUNTS,
    mirrors=(),
)


def read(source="auto", directory=None, validation=2, pairs=TINY) -> Dataset:
    return mrpc.read_pairs(source, directory, validation, 0, pairs)


def numbers(dataset: Dataset) -> list[list[int]]:
    """Which lines are in each split, read from their sentences."""
    splits = (dataset.train, dataset.validation, dataset.test)
    return [[int(first.split()[-2]) for first in split["first"]] for split in splits]


def write(folder, names, pack=False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        content = CONTENTS[name].encode()
        (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(content) if pack else content)


@pytest.mark.parametrize("names", [ORIGINAL, SPLIT], ids=["original", "split"])
@pytest.mark.parametrize("pack", [True, False])
def test_both_layouts_are_the_same_pairs(tmp_path, names, pack):
    write(tmp_path / "mrpc", names, pack)
    dataset = read(directory=str(tmp_path))
    assert numbers(dataset) == [TRAIN, DEV, TEST]
    assert dataset.train["label"].tolist() == [0, 1, 1, 0, 0, 1]
    assert (dataset.name, dataset.source, dataset.num_classes, dataset.notes) == ("mrpc", "dir", 2, ())
    assert list(dataset.sha256) == names


def test_a_complete_layout_wins_over_a_part_of_the_other(tmp_path):
    write(tmp_path, [*SPLIT[:2], *ORIGINAL])
    assert list(read(directory=str(tmp_path)).sha256) == ORIGINAL
    write(tmp_path / "part", SPLIT[:2])
    with pytest.raises(UserError, match=r"--data\.dir=.* lacks test\.tsv\.gz \(or test\.tsv\)"):
        read(directory=str(tmp_path / "part"))
    (tmp_path / "part" / "test.tsv").write_text(CONTENTS["test.tsv"].replace(" 9", " 8"))
    with pytest.raises(UserError, match=r"test\.tsv can be read but is corrupted or not the published file"):
        read(directory=str(tmp_path / "part"))


def test_validation_0_trains_on_dev_and_any_other_number_is_dev(tmp_path):
    write(tmp_path, SPLIT)
    assert numbers(read(directory=str(tmp_path), validation=5000)) == [TRAIN, DEV, TEST]
    assert numbers(read(directory=str(tmp_path), validation=0)) == [[*TRAIN, *DEV], [], TEST]
    with pytest.raises(UserError, match=r"^data\.validation is -1; it must be a whole number from 0 to 1,000,000"):
        data.load("mrpc", dir=str(tmp_path), validation=-1)


def test_a_mirror_has_a_url_for_each_file_and_fills_the_cache(serve, cache):
    url = serve({f"files/{name}": CONTENTS[name].encode() for name in ORIGINAL})
    bad = {name: f"{url}elsewhere/{name}" for name in ORIGINAL}
    good = {name: f"{url}files/{name}" for name in ORIGINAL}
    pairs = dataclasses.replace(TINY, mirrors=(bad, good))
    dataset = read(pairs=pairs)
    assert (dataset.source, dataset.origin) == ("mirror", f"{url}files/")
    assert numbers(dataset) == [TRAIN, DEV, TEST]
    assert sorted(path.name for path in (cache / "mrpc").iterdir()) == sorted(ORIGINAL)
    assert read().source == "cache"


def test_the_urls_are_of_the_files_that_are_asked_for():
    for mirror in mrpc.MRPC.mirrors:
        assert list(mirror) == [file.name for file in mrpc.MRPC.original]
        assert all(url.startswith("https://") for url in mirror.values())


def test_without_network_and_files_one_error_lists_what_was_tried(serve):
    pairs = dataclasses.replace(TINY, mirrors=({name: f"http://127.0.0.1:1/{name}" for name in ORIGINAL},))
    with pytest.raises(UserError) as error:
        read(pairs=pairs)
    sentences = error.value.sentences
    assert sentences[0] == "No source could serve the data set 'mrpc'; tried, in order:"
    assert [sentence.split(":")[0] for sentence in sentences[1:-1]] == ["  cache", "  mirror"]
    assert "Put the files in a folder and pass it as --data.dir" in sentences[-1]


@pytest.mark.parametrize("source", ["wheel", "embedded"])
def test_what_mrpc_is_not_offered_by(source):
    with pytest.raises(UserError, match=rf"--data\.source={source} does not offer mrpc: choose one of auto, dir"):
        read(source)


def test_made_up_pairs_are_named_and_say_so():
    dataset = read("synthetic")
    assert [len(split["label"]) for split in (dataset.train, dataset.validation, dataset.test)] == [6, 2, 3]
    assert (dataset.source, dataset.notes) == ("synthetic", (synthetic_pairs.NOTE,))
    assert dataset.train["first"][0] not in dataset.test["first"]
    again, _ = synthetic_pairs.make({"train": 5})
    assert dataset.train["first"][:5].tolist() == again["train"]["first"].tolist()


def test_made_up_near_misses_differ_in_one_thing_that_matters():
    pairs, _ = synthetic_pairs.make({"train": 400})
    assert 0.6 < pairs["train"]["label"].mean() < 0.75
    for first, second, label in zip(*pairs["train"].values(), strict=True):
        kept = [
            [name in first for name in facts] == [name in second for name in facts]
            for facts in (synthetic_pairs._NAMES, synthetic_pairs._DAYS)
        ]
        amount = [next(w for w in s.split() if w.isdigit()) for s in (first, second)]
        verb = [
            next(i for i, ways in enumerate(synthetic_pairs._VERBS) if any(f" {w} " in s for w in ways))
            for s in (first, second)
        ]
        same = [*kept, amount[0] == amount[1], verb[0] == verb[1]]
        assert same.count(False) == 1 - label


# Libraries


def columns(numbers) -> dict[str, list]:
    rows = [line(i).split("\t") for i in numbers]
    return {"sentence1": [r[3] for r in rows], "sentence2": [r[4] for r in rows], "label": [int(r[0]) for r in rows]}


@pytest.mark.filterwarnings("default")
def test_a_local_copy_of_the_hub_s(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    splits = {"train": TRAIN, "validation": DEV, "test": TEST}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_dict(columns(n)) for name, n in splits.items()})
    saved.save_to_disk(tmp_path / "copy")
    assert numbers(read("hf", str(tmp_path / "copy"))) == [TRAIN, DEV, TEST]
    saved["train"].remove_columns("sentence2").save_to_disk(tmp_path / "bad" / "train")
    (tmp_path / "bad" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UserError, match=r"with the columns sentence1, sentence2 and label"):
        read("hf", str(tmp_path / "bad"))


@pytest.mark.skipif(importlib.util.find_spec("importlib_resources") is None, reason="needs the extra tfds")
@pytest.mark.filterwarnings("default")
def test_the_library_s_own_preparation_has_no_test_labels(tmp_path, monkeypatch):
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    from moejax.data import web

    write(tmp_path, ORIGINAL)
    for name in ORIGINAL[1:2]:  # the library opens the test file without passing over the mark
        (tmp_path / name).write_text(CONTENTS[name].removeprefix("\ufeff"))
    by_key = {"dev_ids": "dev_ids.tsv", "train": ORIGINAL[0], "test": ORIGINAL[1]}

    def download(self, urls):
        return {key: str(tmp_path / by_key[key]) for key in urls}

    monkeypatch.setattr(tensorflow_datasets.core.download.DownloadManager, "download", download)
    monkeypatch.setattr(web, "probe", lambda _: None)
    dataset = read("tfds", str(tmp_path / "tfds"))
    assert dataset.source == "tfds"
    assert dataset.notes == (mrpc.NO_TEST_LABELS,)
    assert [sorted(n) for n in numbers(dataset)] == [sorted(TRAIN), [], sorted(DEV)]


def test_what_a_library_gives_is_checked():
    splits = {name: pair_table.of_columns(["a"] * n, ["b"] * n, [1] * n) for name, n in COUNTS.items()}
    assert mrpc.from_splits(TINY, splits, "here").test["label"].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"^here has no split 'test' \(train, validation\)"):
        mrpc.from_splits(TINY, {k: v for k, v in splits.items() if k != "test"}, "here")
    with pytest.raises(UserError, match=r"^The test split of here has 6 pairs, expected 3"):
        mrpc.from_splits(TINY, splits | {"test": splits["train"]}, "here")
    splits["train"]["label"][0] = -1
    with pytest.raises(UserError, match=r"^The train split of here has the label -1, expected 0 or 1"):
        mrpc.from_splits(TINY, splits, "here")


# Ids


def test_pairs_as_ids_by_a_tokenizer_that_is_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "mrpc", functools.partial(mrpc.load, pairs=TINY))
    write(tmp_path, SPLIT)
    dataset = data.load("mrpc", dir=str(tmp_path), **OPTIONS)
    assert {name: (array.shape, array.dtype.name) for name, array in dataset.test.items()} == {
        "first": ((3, 8), "int32"),
        "second": ((3, 8), "int32"),
        "label": ((3,), "int32"),
    }
    (kept,) = (cache / "mrpc").iterdir()
    again = data.load("mrpc", dir=str(tmp_path), **OPTIONS)
    np.testing.assert_array_equal(again.train["first"], dataset.train["first"])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").write_bytes(kept.read_bytes())
    own = data.load("mrpc", dir=str(tmp_path), **OPTIONS | {"tokenizer": str(tmp_path / "own")})
    np.testing.assert_array_equal(own.train["first"], dataset.train["first"])


# The real pairs


def test_real_mrpc(real_data):
    split = mrpc.read_pairs("dir", real_data, 408, 0)
    original = mrpc.read_pairs("dir", f"{real_data}/mrpc/original", 408, 0)
    for name, (count, ones) in {"train": (3668, 2474), "validation": (408, 279), "test": (1725, 1147)}.items():
        examples = getattr(split, name)
        assert (len(examples["label"]), int(examples["label"].sum())) == (count, ones)
        for side, array in examples.items():
            np.testing.assert_array_equal(array, getattr(original, name)[side])
