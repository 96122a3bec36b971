"""Where data are, and to fetch them: from a server of the test's own, as a run would."""

import json

import pytest

from moejax.__main__ import main
from moejax.data import DATASETS, clusters
from moejax.data.dataset import Loader, Source, Validation


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MOEJAX_DATA_DIR", raising=False)
    return tmp_path


def test_path_says_where_data_are_and_how_much(places, monkeypatch, capsys):
    assert main(["data", "path"]) == 0
    assert capsys.readouterr().out == f"cache: {places / 'cache'}\n"
    (places / "cache" / "mnist").mkdir(parents=True)
    (places / "cache" / "mnist" / "x").write_bytes(bytes(2_000_000))
    (places / "mine" / "mrpc").mkdir(parents=True)
    monkeypatch.setenv("MOEJAX_DATA_DIR", str(places / "mine"))
    assert main(["data", "path"]) == 0
    assert capsys.readouterr().out.split() == [
        *("MOEJAX_DATA_DIR:", str(places / "mine"), "mrpc", "0.0", "MB"),
        *("cache:", str(places / "cache"), "mnist", "2.0", "MB"),
    ]
    assert main(["data", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache"] == {
        "path": str(places / "cache"),
        "bytes": {"mnist": 2_000_000},
    }


def test_fetch_loads_a_data_set_as_a_run_would(monkeypatch, capsys):
    def load(source: Source = "auto", validation: Validation = 50, seed: int = 0):
        return clusters.load("s1", validation, seed)

    monkeypatch.setitem(DATASETS, "made_up", Loader(load, "patches", "made up"))
    assert main(["data", "fetch", "made_up"]) == 0
    said = "clusters, setting s1: 16,000 + 50 + 16,000 examples from seed (drawn by seed 0)\n"
    assert capsys.readouterr().out == said
    assert main(["data", "fetch", "made_up", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == {"train": 16_000, "validation": 50, "test": 16_000}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch"], "moejax data: fetch needs the NAME of a data set; see  moejax data --help"),
        (["path", "mnist"], "moejax data: path takes no NAME; see"),
        (["fetch", "mnits"], "There is no data set 'mnits'; did you mean mnist?"),
        (
            ["fetch", "zzz"],
            "There is no data set 'zzz'; choose one of mnist, fashion_mnist, domains, mnist_tasks, mrpc",
        ),
        (
            ["fetch", "images"],
            "Nothing of images can be fetched (pictures of your own: a folder for each class); choose",
        ),
        ([], "moejax data: the following arguments are required: what"),
        (["lose"], "moejax data: argument what: invalid choice: 'lose'"),
    ],
)
def test_words_that_make_no_sense(words, said, capsys):
    assert main(["data", *words]) == 2
    assert capsys.readouterr().err.startswith(f"moejax: {said}")
