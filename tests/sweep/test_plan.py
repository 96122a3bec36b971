"""Which runs a sweep makes, and all that can be wrong with its words, before any run begins."""

import json

import pytest

from moejax.config import to_json
from moejax.errors import UserError
from moejax.presets import PRESETS
from moejax.sweep import plan
from moejax.sweep.axes import values_of


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("4,8,16", ["4", "8", "16"]),
        ("soft", ["soft"]),
        ("0..2", ["0", "1", "2"]),
        ("-1..1", ["-1", "0", "1"]),
        ("7..7", ["7"]),
        ("../a", ["../a"]),
        ("1e-3,0.1", ["1e-3", "0.1"]),
        ("[4, 8.5]", ["4", "8.5"]),
        ('["a,b", "c"]', ["a,b", "c"]),
        ("[null, true]", ["none", "true"]),
        ('[[1, 2], {"b": 1}]', ["[1, 2]", '{"b": 1}']),
        ('{"b1": 0.9, "b2": 0.99}', ['{"b1": 0.9, "b2": 0.99}']),
    ],
)
def test_values_of_a_word(word, values):
    assert values_of(word) == values


@pytest.mark.parametrize("word", ["", "4,", ",4", "[]", "[1,", "[1] 2", "3..1", "0..9999999999", "4,8,4", '["a", "a"]'])
def test_a_word_that_makes_no_sense(word):
    with pytest.raises(ValueError, match=r"^which "):
        values_of(word)


def test_every_combination_is_a_run_with_a_folder_of_its_own(tmp_path):
    words = ["--config", "mnist_tiny", "--moe.num_experts", "2,4", "--seed", "0..2", "--train.epochs=3"]
    sweep = plan(words, str(tmp_path))
    assert len(sweep.runs) == len({run.folder for run in sweep.runs}) == 6
    assert sweep.varied == ["moe.num_experts"]
    last = sweep.runs[-1]
    assert last.values == {"moe.num_experts": "4", "seed": "2"}
    assert last.folder == tmp_path / "moe.num_experts=4,seed=2"
    assert last.command == (
        *("--config", "mnist_tiny", "--moe.num_experts", "4", "--seed", "2", "--train.epochs", "3"),
        *("--out", str(last.folder)),
    )


def test_a_value_that_looks_like_an_option_is_one_word_with_its_option():
    (one,) = plan(["--config", "mnist_tiny", "--name=--x"], "--y").runs
    assert one.command == ("--config", "mnist_tiny", "--name=--x", "--out=--y/run")


def test_presets_can_vary_and_odd_values_have_plain_folders(tmp_path):
    file = tmp_path / "a,b" / "config.json"
    file.parent.mkdir()
    file.write_text(to_json(PRESETS["mnist_tiny"].config.replace(seed=7)))
    words = ["--config", json.dumps(["mnist_tiny", str(file)]), "--name", '["x y", "x_y"]']
    names = [run.folder.name for run in plan([*words, "--data.dir", "/a\udcff,/b"], str(tmp_path)).runs]
    assert len(set(names)) == 8
    assert all(name.isascii() and "/" not in name and len(name) < 160 for name in names)


@pytest.mark.parametrize(("option", "values"), [("train.batch_size", "8,08"), ("train.learning_rate", "0.001,1e-3")])
def test_equal_values_that_are_spelled_differently_are_one_run_and_said(option, values):
    first, second = values.split(",")
    with pytest.raises(UserError, match=f"^{option}={second} is the same run as {option}={first}; leave one out"):
        plan(["--config", "mnist_tiny", f"--{option}", values])


def test_without_a_choice_there_is_one_run():
    sweep = plan(["--config", "mnist_tiny"])
    assert [str(run.folder) for run in sweep.runs] == ["runs/sweep-mnist_tiny/run"]
    assert sweep.runs[0].name == "one run"


def test_all_that_is_wrong_is_told_at_once_and_each_thing_once():
    words = "--config mnist_sparse --moe.num_experts 4,8 --moe.k 2,6 --seed x,1 --train.epochs 3..1"
    with pytest.raises(UserError) as error:
        plan([*words.split(), "--resume", "runs/a", "--oops"])
    said = error.value.sentences
    assert any("--oops needs a value" in s for s in said)
    assert "A sweep takes no --resume; leave it out." in said
    assert any(s.startswith("--train.epochs is '3..1', which is no range") for s in said)
    assert any(s.startswith("moe.k is 6,") and s.endswith("and 1 more)") for s in said)
    assert sum("seed is x" in s for s in said) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--config nothing --seed 0..2", "--config nothing is neither"),
        ("--seed 0..2", "--config is missing"),
        ("--config mnist_tiny --seed 0..999 --train.epochs 1,2", "These are 2,000 runs; a sweep has at most 1,000."),
        ("--config mnist_tiny --moe.experts 1,2", "There is no option moe.experts; did you mean moe.num_experts?"),
        ("--config mnist_tiny --print-config", "A sweep takes no --print-config; use --print."),
        ("--config mnist_tiny --debug.nans", "A sweep takes no --debug.nans; leave it out."),
    ],
)
def test_one_thing_that_is_wrong(words, said):
    with pytest.raises(UserError) as error:
        plan(words.split())
    (sentence,) = error.value.sentences
    assert sentence.startswith(said)


def test_a_file_is_no_folder_of_a_sweep(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "sweep"):
        with pytest.raises(UserError, match=f"^Cannot write to --out {out}: {tmp_path / 'file'}: Not a directory"):
            plan(["--config", "mnist_tiny"], str(out))
    with pytest.raises(UserError, match=r"^--out is '', which can be no path"):
        plan(["--config", "mnist_tiny"], "")


def test_names_of_many_bytes_make_a_folder_that_there_can_be():
    folder = plan(["--config", "mnist_tiny", "--name", f"{'😀' * 50},{'ä' * 100}"]).folder
    assert folder.name == f"sweep-{'😀' * 20}"


def test_a_folder_with_another_run_is_not_mixed_in(tmp_path):
    words = ["--config", "mnist_tiny", "--seed", "0..1"]
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "config.json").write_text(to_json(PRESETS["mnist_tiny"].config))
    assert plan(words, str(tmp_path)).runs[0].command == ("--resume", str(tmp_path / "seed=0"))
    with pytest.raises(UserError, match=r"seed=0 holds a run whose train\.epochs is 1, not 3; choose another --out"):
        plan([*words, "--train.epochs", "3"], str(tmp_path))
