"""A benchmark of one's own case, and of two commits: what is measured, what is refused in a sentence."""

import csv
import itertools
import types

import numpy as np
import pytest

from benchmarks.harness import revisions
from benchmarks.suite import own_case
from benchmarks.suite.cases import Case
from moejax.errors import UserError

SHAPE = ["--shape", "32,8,16,4,2"]
SMALL = (*SHAPE, "--turns", "1", "--quick")


@pytest.mark.slow
def test_what_is_asked_for_is_measured(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    words = [*SMALL, "--layers", "gather,grouped,soft", "--routers", "sigmoid,expert_choice", "--skew", "1"]
    assert own_case.main([*words, "--csv", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("grouped with expert_choice is left out: dispatch is grouped, which sorts tokens")
    with open(file, newline="", encoding="utf-8") as rows:
        found = list(csv.DictReader(rows))
    assert [(row["layer"], row["router"]) for row in found[: len(found) // 2]] == [
        ("mlp", ""),
        ("gather", "sigmoid"),
        ("gather", "expert_choice"),
        ("grouped", "sigmoid"),
        ("soft", ""),
    ]
    assert all(float(row["low"]) <= float(row["ms"]) <= float(row["high"]) for row in found)
    assert len(said[said.index("|") :].splitlines()) == 2 + 5 + 2  # the table, an empty line, the file


@pytest.mark.slow
def test_a_given_choice_is_the_load_that_is_measured(tmp_path, capsys):
    np.savez(tmp_path / "one.npz", experts=np.tile([0, 1], (32, 1)))
    words = [*SMALL, "--layers", "grouped", "--given", str(tmp_path / "one.npz"), "--profile", str(tmp_path / "trace")]
    assert own_case.main(words) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "grouped" in line)
    assert line.endswith("| 0.0% | 1.00 |")  # two of four experts have all: twice an equal load
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_groups_that_tokens_do_not_fill_are_a_sentence():
    with pytest.raises(UserError, match=r"32 tokens of the shape 32, 8, 16, 4, 2 make no groups of 5; give a --group"):
        own_case.main([*SMALL, "--group", "5"])


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        (np.zeros((32, 2), int), r"holds experts from 0 to 0; a token has different ones from 0 to 3, or -1 in place"),
        (np.tile([0, 4], (32, 1)), r"holds experts from 0 to 4; a token has different ones from 0 to 3"),
        (np.tile([0, 1], (31, 1)), r"holds int64\[31, 2\]; the shape 32, 8, 16, 4, 2 needs 32 × 2 whole numbers\."),
        (np.tile([0.0, 1.0], (32, 1)), r"holds float64\[32, 2\]; the shape"),
        (np.array([{}]), r"holds no array of experts"),
    ],
)
def test_a_choice_that_cannot_be_is_a_sentence(tmp_path, experts, sentence):
    np.save(tmp_path / "given.npy", experts)
    with pytest.raises(UserError, match=sentence):
        own_case.read_given(tmp_path / "given.npy", Case(32, 8, 16, 4, 2))
    with pytest.raises(UserError, match="holds no array of experts"):
        own_case.read_given(tmp_path / "none.npy", Case(32, 8, 16, 4, 2))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shape", "1,2,3"], "'1,2,3' must be five whole numbers T,d,h,E,k with k at most E"),
        (["--shape", "32,8,16,4,5"], "'32,8,16,4,5' must be five whole numbers"),
        ([*SMALL, "--layers", "gathre"], "there is no 'gathre'; did you mean gather?"),
        ([*SMALL, "--routers", "zzz"], "there is no 'zzz'; choose of softmax_top_k, "),
        ([*SMALL, "--factor", "0"], "'0' must be a number above 0"),
        ([*SMALL, "--factor", "x"], "'x' must be a number above 0"),
        ([*SMALL, "--group", "0"], "'0' must be a whole number of at least 1"),
        ([*SMALL, "--skew", "nan"], "'nan' must be a number of at least 0"),
    ],
)
def test_words_that_make_no_case_are_a_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit):
        own_case.main(words)
    assert sentence in capsys.readouterr().err


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(own_case, "rows_of", lambda *_: pytest.fail("measured"))
    for option, place in (("--csv", tmp_path / "none" / "x.csv"), ("--profile", tmp_path / "file" / "traces")):
        with pytest.raises(UserError, match=f"^Cannot write to {option} {place}: "):
            own_case.main([*SMALL, option, str(place)])


def test_two_commits_are_measured_in_turns_by_todays_benchmark(monkeypatch, capsys):
    order, milliseconds = [], {"old": itertools.cycle((1.0, 3.0, 2.0)), "new": itertools.cycle((2.0, 3.3, 4.0))}

    def measure(place, case):
        assert (place / "moejax" / "layers.py").exists()
        assert (place / "benchmarks" / "suite" / "own_case.py").exists()
        assert case == SHAPE
        order.append(place.name)
        return {("shape", "float32", "gather", "sigmoid", "forward"): next(milliseconds[place.name])}

    def unpack(rev, place):
        (place / "moejax").mkdir(parents=True)
        (place / "moejax" / "layers.py").write_text(rev, encoding="utf-8")

    monkeypatch.setattr(revisions, "measure", measure)
    monkeypatch.setattr(revisions, "unpack", unpack)
    assert revisions.main(["--rev", "a", "--rev", "b", *SHAPE]) == 1
    assert order == ["old", "new"] * 3
    assert "| forward | 2.00 | 3.30 | 2.00× |" in capsys.readouterr().out
    assert revisions.main(["--rev", "a", "--rev", "b", *SHAPE, "--tolerance", "3"]) == 0


def test_what_is_no_commit_or_cannot_be_measured_is_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--rev is there 1 times; give it twice"):
        revisions.main(["--rev", "HEAD", *SHAPE])
    done = types.SimpleNamespace(returncode=1, stderr="Traceback\nImportError: no such name\n", stdout=b"")
    monkeypatch.setattr(revisions.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(UserError, match="--rev zzz is no commit of this repository that has the library"):
        revisions.unpack("zzz", tmp_path / "old")
    with pytest.raises(UserError, match="The old commit cannot be measured by today's benchmark: ImportError: no such"):
        revisions.measure(tmp_path / "old", [])
