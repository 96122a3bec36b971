"""One program, a word for each thing that it does: its help, and what is no verb."""

import contextlib
import json

import pytest

from moejax import __version__
from moejax.__main__ import main
from moejax.presets import PRESETS
from moejax.verbs import VERBS, meaning


def test_help_has_a_line_for_each_verb(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        said = capsys.readouterr().out.splitlines()
        for verb in VERBS:
            assert any(line.split() == [verb, *meaning(verb).split()] for line in said)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_and_takes(verb, capsys):
    assert 0 < len(meaning(verb)) <= 100
    with contextlib.suppress(SystemExit):  # as argparse ends
        assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ")
    assert f"moejax {verb} " in said.replace("python -m moejax.run", "moejax run")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"moejax {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reprot", "runs/x"], "'reprot' is no verb; did you mean report?"),
        (["zzz"], "'zzz' is no verb; the verbs are run, report, "),
        (["--config", "mnist_soft"], "'--config' comes before a verb; to train, write  moejax run --config …"),
        (["report"], "moejax report: the following arguments are required: RUN; see  moejax report --help"),
        (["presets", "--jsno"], "moejax presets: unrecognized arguments: --jsno; did you mean --json?"),
        (["presets", "--qqqq"], "moejax presets: unrecognized arguments: --qqqq; see  moejax presets --help"),
        (["data", "fecht"], "moejax data: argument what: invalid choice: 'fecht' (choose from "),
        (["export", "run", "--format", "stablehol"], "moejax export: argument --format: invalid choice: 'stablehol' "),
        (
            ["sweep", "--jobs", "9" * 5000],
            f"moejax sweep: argument --jobs: '{'9' * 59}… (5002 characters); it is a num",
        ),
        (["sweep", "--jobs", "0"], "moejax sweep: argument --jobs: '0'; it is a number of runs, from 1 to 9,999; see"),
        (
            ["serve", "run", "--port", "9" * 5000],
            f"moejax serve: --port is '{'9' * 59}… (5002 characters), which is no wh",
        ),
        (["serve", "run", "--port", "abc"], "moejax serve: --port is 'abc', which is no whole number; see  moejax"),
    ],
)
def test_words_that_make_no_sense_are_a_sentence(words, said, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"moejax: {said}")


@pytest.mark.parametrize(
    ("words", "near"), [(["data", "fecht"], "fetch"), (["export", "run", "--format", "stablehol"], "stablehlo")]
)
def test_a_choice_that_is_nearly_one_is_named(words, near, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {near}?\n")


def test_presets(capsys):
    assert main(["presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == PRESETS.keys()
    assert main(["presets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PRESETS)


def test_run_is_a_verb(capsys):
    assert main(["run", "--config", "mnist_tiny", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mnist_tiny"
