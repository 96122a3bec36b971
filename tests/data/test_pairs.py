"""Pairs of texts of one's own: tables of four kinds, columns by name, splits, and what is wrong with a row."""

import numpy as np
import pytest

from moejax.data import load, tokens
from moejax.data.pairs import columns, files_of
from moejax.data.table import read
from moejax.errors import UserError

ROWS = [(f"number {i} is odd", f"{i} can be halved", ("yes", "no", "maybe")[i % 3]) for i in range(30)]
HEADER = ("premise", "hypothesis", "label")
SMALL = {"vocabulary": 60, "length": 12}


def table(rows=ROWS, header=HEADER, sep="\t"):
    return "".join(sep.join(map(str, row)) + "\n" for row in (header, *rows))


def write(path, text, **how):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", **how)
    return path


def refused(match, path, **options):
    with pytest.raises(UserError, match=match):
        load("pairs", dir=str(path), **SMALL, **options)


def test_a_table_is_split_by_the_seed_and_tokenized(tmp_path):
    path = write(tmp_path / "mine.tsv", table())
    data = load("pairs", dir=str(path), **SMALL)
    assert (data.classes, data.num_classes, data.origin) == (("maybe", "no", "yes"), 3, str(path))
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [21, 3, 6]
    assert data.train["first"].shape == (21, 12)
    assert data.train["first"].dtype == np.int32
    assert set(data.sha256) == {"mine.tsv"}
    spoken = tokens.of_text(data.tokenizer).decode(data.train["second"][0], skip_special_tokens=True)
    assert spoken.replace("▁", "").endswith("can be halved")


def test_a_comma_separated_table_and_parquet_and_json_lines_hold_the_same(tmp_path):
    import pandas

    frame = pandas.DataFrame(ROWS, columns=list(HEADER))
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    write(tmp_path / "a.tsv", "\ufeff" + table(), newline="\r\n")
    want = {name: [row[i] for row in ROWS] for i, name in enumerate(HEADER)}
    for ending in ("csv", "parquet", "jsonl", "tsv"):
        assert read([tmp_path / f"a.{ending}"]) == want, ending


def test_what_looks_like_a_missing_number_or_a_quotation_is_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'a\tb\n"unbalanced\tNA\nnull\t\u2028 x "y" z\n')
    assert read([path]) == {"a": ['"unbalanced', "null"], "b": ["NA", '\u2028 x "y" z']}
    path = write(tmp_path / "a.csv", 'a,b\n"x, y\nz","says ""hi"""\n')
    assert read([path]) == {"a": ["x, y\nz"], "b": ['says "hi"']}


@pytest.mark.parametrize(
    ("written", "classes"),
    [(("True", "False"), ("False", "True")), (("1", "01", "-2"), ("-2", "01", "1")), (("10", "9"), ("9", "10"))],
)
def test_labels_of_a_table_are_what_is_written(tmp_path, written, classes):
    rows = [(f"a {i}", str(i), written[i % len(written)]) for i in range(30)]
    for sep, name in ((",", "mine.csv"), ("\t", "mine.tsv")):
        assert load("pairs", dir=str(write(tmp_path / name, table(rows, sep=sep))), **SMALL).classes == classes


def test_classes_that_parquet_names(tmp_path):
    import datasets

    features = datasets.Features(
        {"q": datasets.Value("string"), "label": datasets.ClassLabel(names=["different", "same"])}
    )
    rows = datasets.Dataset.from_dict({"q": ["x", "y", "z"], "label": [1, 0, -1]}, features=features)
    rows.to_parquet(tmp_path / "a.parquet")
    assert read([tmp_path / "a.parquet"])["label"] == ["same", "different", None]  # -1: no label


def test_the_test_pairs_alone_are_not_trained_on(tmp_path):
    write(tmp_path / "test.csv", table(sep=","))
    refused(r"has test\.csv, but no train\.csv: add it, or name the file itself", tmp_path)


def test_a_folder_of_splits(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.csv", table(sep=","))
    data = load("pairs", dir=str(tmp_path), **SMALL)
    assert [len(s["label"]) for s in (data.train, data.validation, data.test)] == [30, 30, 30]
    assert data.notes == ()
    (tmp_path / "train.csv").rename(tmp_path / "train-00000-of-00002.csv")
    write(tmp_path / "train-00001-of-00002.csv", table(sep=","))
    assert len(load("pairs", dir=str(tmp_path), **SMALL).train["label"]) == 60
    write(tmp_path / "training.csv", table(sep=","))
    refused(r"has both train-00000-of-00002\.csv and training\.csv, which are one split: join the two", tmp_path)
    (tmp_path / "training.csv").unlink()
    write(tmp_path / "extra.csv", table(sep=","))
    refused(r"extra\.csv is not named by its split: call it train, validation or test, or move it away", tmp_path)


@pytest.mark.parametrize(
    ("there", "named", "want"),
    [
        (("id", "Sentence1", "Sentence2", "Label"), (None,) * 3, ("Sentence1", "Sentence2", "Label")),
        (("text1", "text2", "target"), (None,) * 3, ("text1", "text2", "target")),
        (("question1", "question2", "is_duplicate"), (None,) * 3, ("question1", "question2", "is_duplicate")),
        (("premise", "hypothesis", "gold_label", "x"), (None, None, "x"), ("premise", "hypothesis", "x")),
        (("a", "b", "c"), ("b", "a", "c"), ("b", "a", "c")),
    ],
)
def test_columns_by_usual_names_or_by_option(there, named, want):
    assert columns({name: [] for name in there}, named, "x") == want


@pytest.mark.parametrize(
    ("there", "named", "said"),
    [
        (("a", "b", "label"), (None,) * 3, r"^x has the columns 'a', 'b', 'label', none of which are usual for two"),
        (("text1", "text2", "x"), (None,) * 3, r"^x has the columns .+: name that of the labels with --data\.label_c"),
        (("text1", "text2", "label"), ("b", None, None), r"^x has no column 'b', but 'text1', .+ --data\.first_column"),
        (("text1", "text2", "label"), ("text2", None, None), r"^x: no column can be two of first text"),
        (("text1", "Text1", "text2", "label"), (None,) * 3, r"^x has the columns 'text1' and 'Text1': name the three"),
    ],
)
def test_columns_that_are_not_there(there, named, said):
    with pytest.raises(UserError, match=said):
        columns({name: [] for name in there}, named, "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"mine\.tsv is empty: give it a row with the names of its columns"),
        (table([]), r"The train split of .+ is empty|cannot be read as a table|has 0 classes"),
        (table([("x", "y")]), r"has 3 columns by its header, but 2 in the first row"),
        (table([*ROWS, ("a", "b", "c", "d")]), r"cannot be read as a table \(Error tokenizing data.+line 32, saw 4\)"),
        (
            table([*ROWS, ("a", "", "yes")]),
            r"has nothing as hypothesis in row 31: give it a text, or leave the row out",
        ),
        (table([*ROWS, ("a", "b")]), r"has no label in row 31: give it one, or leave the row out"),
        (table([("a", "b", i / 2) for i in range(9)]), r"has the label 0\.5 in row 2, expected words or whole numbers"),
        (table([("a", "b", "yes")] * 9), r"has 1 classes \('yes'\): a network tells at least 2"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, said):
    refused(said, write(tmp_path / "mine.tsv", text))


def test_text_that_is_not_utf_8(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_bytes(table().encode() + b"caf\xe9\tb\tyes\n")
    refused(r"mine\.tsv cannot be read as a table \('utf-?8'.* codec can't decode byte 0xe9", path)
    (tmp_path / "mine.parquet").write_bytes(b"no parquet")
    refused(r"mine\.parquet cannot be read as a table", tmp_path / "mine.parquet")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(
        UserError, match=r"^--data\.name=pairs needs a \.tsv, \.csv, \.parquet or \.jsonl file: name it"
    ):
        load("pairs")
    refused(
        r"none\.tsv is not there: name a table \(\.tsv, \.csv, \.parquet, \.jsonl\) or a folder", tmp_path / "none.tsv"
    )
    refused(r"holds no table \(.+\): put train\.tsv there, or name the file itself", tmp_path)
    refused(r"a\.xlsx is no table by its ending: give a file of \.tsv", write(tmp_path / "a.xlsx", "x"))
    for name in ("dev", "test"):
        write(tmp_path / f"{name}.tsv", table())
    refused(r"has dev\.tsv, but no train\.tsv: add it", tmp_path)
    assert files_of(write(tmp_path / "train.tsv", table()).parent).keys() == {"train", "validation", "test"}
