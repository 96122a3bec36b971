"""No figure is typed by hand: README's tables are the results' tables, and those are made of the results' JSON."""

import importlib
import json
import re
from pathlib import Path

import pytest

from experiments.tables import with_tables

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "experiments").glob("*/results.json"))
BENCHMARKS = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))


def test_readme_shows_the_tables_of_the_results():
    text = (ROOT / "README.md").read_text()
    assert text == with_tables(text), "python -m experiments.tables writes them anew"


@pytest.mark.parametrize("file", STUDIES, ids=[file.parent.name for file in STUDIES])
def test_a_study_s_table_is_made_of_its_rows(file):
    script = importlib.import_module(f"experiments.{file.parent.name}.run")
    assert (file.parent / "table.md").read_text() == script.table(json.loads(file.read_text()))


@pytest.mark.parametrize("file", BENCHMARKS, ids=[file.stem for file in BENCHMARKS])
def test_a_benchmark_s_table_is_made_of_its_rows(file):
    script = importlib.import_module(f"benchmarks.suite.{file.stem}")
    assert file.with_suffix(".md").read_text() == script.table(json.loads(file.read_text())["rows"])


def test_readme_shows_every_study():
    shown = re.findall(r"^<!-- (\S+\.md) -->$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {str(file.parent.relative_to(ROOT) / "table.md") for file in STUDIES} <= set(shown)
