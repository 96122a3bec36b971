"""A benchmark of one's own case, and of two commits: what is measured, what is refused in a sentence."""

import csv
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import revisions
from benchmarks.suite import own_case, own_words
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


def test_groups_that_tokens_do_not_fill_are_a_sentence_where_there_are_groups():
    with pytest.raises(UserError, match=r"32 tokens of the shape 32, 8, 16, 4, 2 make no groups of 5; give a --group"):
        own_case.main([*SMALL, "--group", "5"])
    odd = ["--shape", "33,8,16,4,2", "--layers"]
    for layers in ("soft", "mlp,gather"):
        with pytest.raises(UserError, match="33 tokens of the shape"):
            own_words.cases(own_words.understood([*odd, layers]))
    assert len(own_words.cases(own_words.understood([*odd, "mlp,dense,grouped"]))) == 1


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
        own_words.read_given(tmp_path / "given.npy", Case(32, 8, 16, 4, 2))
    with pytest.raises(UserError, match="holds no array of experts"):
        own_words.read_given(tmp_path / "none.npy", Case(32, 8, 16, 4, 2))


def test_a_damaged_archive_is_a_sentence(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", experts=np.tile([0, 1], (32, 1)))
    content = (tmp_path / "whole.npz").read_bytes()
    start = content.index(b"experts.npy") + 23  # in what is packed
    changed = content[:start] + bytes(255 - byte for byte in content[start : start + 28]) + content[start + 28 :]
    for damaged in (content[: len(content) // 2], changed, b""):
        (tmp_path / "given.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"given\.npz holds no array of experts \(.+\); make it by numpy\.save\.$"):
            own_words.read_given(tmp_path / "given.npz", Case(32, 8, 16, 4, 2))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--layers", "soft,dense", "--routers", "hash"],
            "--routers is hash, but --layers is soft,dense; it has an eff",
        ),
        (["--layers", "soft,grouped", "--factor", "9"], "--factor is 9.0, .* it has an effect only on einsum, gather."),
        (["--layers", "grouped", "--group", "8"], "--group is 8, .* it has an effect only on einsum, gather, soft."),
        (["--layers", "mlp", "--skew", "3"], "--skew is 3.0, .* only on einsum, gather, grouped."),
        (["--layers", "soft", "--given", "no.npy"], "--given is no.npy, .* only on einsum, gather, grouped."),
        (
            ["--given", "no.npy", "--skew", "3"],
            "--skew is 3, but --given says each token's experts; leave one of them.",
        ),
    ],
)
def test_a_word_without_effect_is_refused(words, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        own_case.main([*SMALL, *words])


def test_a_layer_that_cannot_be_measured_is_left_out_and_refused_where_no_other_is_left(tmp_path, capsys):
    np.save(tmp_path / "given.npy", np.tile([0, 1], (32, 1)))
    given = ["--given", str(tmp_path / "given.npy")]

    def ways(*words: str) -> list[tuple[str, str]]:
        asked = own_words.understood([*SHAPE, "--layers", "gather,dense", *words])
        ((case, given),) = own_words.loads(asked)
        return list(own_case.ways(case, asked, given))

    for words, why in (
        (["--routers", "expert_choice", *given], "given holds experts for each token, but"),
        (["--routers", "relu", *given], "given has the shape"),
        (["--routers", "hash", "--skew", "5"], "skew is 5, but hash has no matrix to be skewed; leave it 0 there."),
    ):
        with pytest.raises(UserError, match=f"^gather with {words[1]} cannot be measured: {why}"):
            ways(*words)
        assert ways(*words[:1], f"{words[1]},sigmoid", *words[2:]) == [
            ("mlp", ""),
            ("gather", "sigmoid"),
            ("dense", ""),
        ]
        assert capsys.readouterr().out.startswith(f"gather with {words[1]} is left out: {why}")


def test_a_case_that_does_not_fit_into_memory_is_a_sentence():
    with (
        pytest.raises(
            UserError, match=r"^The shape 9, 8, 16, 4, 2 does not fit into this device's memory; give a small"
        ),
        own_case.in_memory(Case(9, 8, 16, 4, 2)),
    ):
        jax.jit(lambda: jnp.zeros((2**24, 2**24)))()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shape", "1,2,3"], "'1,2,3' must be five whole numbers T,d,h,E,k"),
        (["--shape", "32,8,16,4,5"], "of '32,8,16,4,5' k is 5; it must be a whole number from 1 to 4."),
        (["--shape", "32,0,16,4,2"], "of '32,0,16,4,2' d is 0; it must be a whole number from 1 to 1,048,576."),
        (["--shape", "64,2000000,64,4,2"], "d is 2000000; it must be a whole number from 1 to 1,048,576."),
        (["--shape", "64,8,1000000,4,2"], "kh is 2000000; it must be a whole number from 1 to 1,048,576."),
        (["--shape", f"{9**21},16,64,4,2"], f"T is {9**21}; it must be a whole number from 1 to 16,777,216."),
        (["--shape", "9" * 5000], "… (5002 characters) must be five whole numbers"),
        ([*SMALL, "--turns", "0"], "--turns: '0' must be a whole number from 1 to 999\n"),
        ([*SMALL, "--layers", "gathre"], "there is no 'gathre'; did you mean gather?"),
        ([*SMALL, "--routers", "zzz"], "there is no 'zzz'; choose of softmax_top_k, "),
        ([*SMALL, "--factor", "0"], "'0' must be a number above 0"),
        ([*SMALL, "--factor", "x"], "'x' must be a number above 0"),
        ([*SMALL, "--group", "0"], "'0' must be a whole number from 1 to 16,777,216"),
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


def test_what_one_commit_alone_can_measure_is_said(monkeypatch, capsys):
    def measure(place, case):
        routers = ("sigmoid", "relu") if place.name == "old" else ("sigmoid", "hash")
        rows = itertools.product(("shape",), ("float32",), ("gather",), routers, ("forward", "forward_backward"))
        return dict.fromkeys(rows, 1.0)

    monkeypatch.setattr(revisions, "measure", measure)
    monkeypatch.setattr(revisions, "checkout", lambda _, place: place)
    assert revisions.main(["--rev", "a", "--rev", "b", *SHAPE]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[3] for line in said[2:4]] == ["sigmoid", "sigmoid"]
    assert said[-3:-1] == [
        "Only the old commit can measure gather with relu.",
        "Only the new commit can measure gather with hash.",
    ]
    assert said[-1] == "0 of 2 times are slower by more than 1.05×."


def test_two_commits_read_the_file_that_is_named_from_here_and_write_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("given.npy", np.tile([0, 1], (32, 1)))
    asked = own_words.understood([*SHAPE, "--given", "given.npy"])
    assert revisions.absolute(asked) == ["--given", str(tmp_path / "given.npy")]
    for words, sentence in (
        (["--csv", "x.csv"], "--csv is x.csv, but two commits are compared"),
        (["--profile", "traces"], "--profile is traces, but two commits are compared"),
        (["--given", "none.npy"], "--given none.npy holds no array of experts"),
        (["--layers", "dense", "--skew", "1"], "--skew is 1.0, but --layers is dense"),
    ):
        with pytest.raises(UserError, match=f"^{sentence}"):
            revisions.main(["--rev", "a", "--rev", "b", *SHAPE, *words])


def test_what_is_no_commit_or_cannot_be_measured_is_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--rev is there 1 times; give it twice"):
        revisions.main(["--rev", "HEAD", *SHAPE])
    done = types.SimpleNamespace(returncode=1, stderr="Traceback\nImportError: no such name\n", stdout=b"")
    monkeypatch.setattr(revisions.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(UserError, match="--rev zzz is no commit of this repository that has the library"):
        revisions.unpack("zzz", tmp_path / "old")
    with pytest.raises(UserError, match="The old commit cannot be measured by today's benchmark: ImportError: no such"):
        revisions.measure(tmp_path / "old", [])
