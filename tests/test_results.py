"""No figure is typed by hand: the READMEs' tables are the results' tables, and those are made of the results' JSON."""

import importlib
import json

import pytest

from experiments.readmes import TABLE, readmes, with_tables, write
from experiments.study import ROOT

STUDIES = sorted((ROOT / "experiments").glob("*/results.json"))
BENCHMARKS = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))
TORTURE = ROOT / "tests" / "torture"
READMES = readmes(ROOT)


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_readmes_show_the_tables_of_the_results(file):
    text = file.read_text()
    assert text == with_tables(text, file.parent), "python -m experiments readmes writes the tables anew"


@pytest.mark.parametrize("file", STUDIES, ids=[file.parent.name for file in STUDIES])
def test_a_study_s_table_is_made_of_its_rows(file):
    script = importlib.import_module(f"experiments.{file.parent.name}.run")
    assert (file.parent / "table.md").read_text() == script.table(json.loads(file.read_text()))


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_a_study_without_rows_has_a_table_without_lines(file):
    assert importlib.import_module(f"experiments.{file.parent.name}.run").table([]).startswith("|")


@pytest.mark.parametrize("file", BENCHMARKS, ids=[file.stem for file in BENCHMARKS])
def test_a_benchmark_s_table_is_made_of_its_rows(file):
    script = importlib.import_module(f"benchmarks.suite.{file.stem}")
    assert file.with_suffix(".md").read_text() == script.table(json.loads(file.read_text())["rows"])


def test_the_table_of_what_the_torture_found_is_made_of_its_rows():
    script = importlib.import_module("tests.torture.__main__")
    assert (TORTURE / "table.md").read_text() == script.table(json.loads((TORTURE / "results.json").read_text()))


def test_every_table_is_shown():
    shown = {file.parent / found[1] for file in READMES for found in TABLE.finditer(file.read_text())}
    assert TORTURE / "table.md" in shown
    assert {file.parent / "table.md" for file in STUDIES} <= shown
    assert {file.with_suffix(".md") for file in BENCHMARKS} <= shown


def test_a_new_table_goes_into_the_readmes_that_show_it_and_nothing_else_changes(tmp_path):
    room = tmp_path / "experiments" / "study"
    room.mkdir(parents=True)
    (room / "table.md").write_text("| new, 1, 2 |\n|---|\n| 1 ± 2 % |\n")
    (room / "README.md").write_text("a\n\n<!-- table.md -->\n| old |\n|---|\n| row |\n\nb\n")
    (tmp_path / "README.md").write_text("c\n\n<!-- experiments/study/table.md -->\n")
    write(tmp_path)
    table = "| new, 1,~2 |\n|---|\n| 1~±~2~% |\n".replace("~", "\N{NO-BREAK SPACE}")  # a figure stays in one line
    assert (room / "README.md").read_text() == f"a\n\n<!-- table.md -->\n{table}\nb\n"
    assert (tmp_path / "README.md").read_text() == f"c\n\n<!-- experiments/study/table.md -->\n{table}"
