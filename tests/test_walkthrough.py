"""The walk-through: its notebook is its script, it runs, and its exercises tell right from wrong."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from seldom import slow_but_for

from experiments.study import ROOT

HERE = ROOT / "experiments" / "walkthrough"
SCRIPT = (HERE / "walkthrough.py").read_text(encoding="utf-8")
CHAPTERS = re.findall(r"^# ## (\d+)\. (.*)$", SCRIPT, re.MULTILINE)


@pytest.fixture
def course(monkeypatch):
    """Its modules, as a reader has them who works in its folder."""
    monkeypatch.syspath_prepend(str(HERE))
    import answers
    import exercises

    return exercises, answers.ANSWERS


@pytest.mark.parametrize("number", slow_but_for(range(1, len(CHAPTERS) + 1), 1, len(CHAPTERS)))
def test_an_exercise_takes_the_answer_and_nothing_else(number, course, capsys):
    exercises, answers = course
    answer = answers[number - 1]
    exercises.check(number, answer)
    assert capsys.readouterr().out == f"Exercise {number}: right.\n"
    with pytest.raises(AssertionError, match=r"you gave[\s\S]*was expected"):
        exercises.check(number, lambda *given: changed(answer(*given), a_little))
    with pytest.raises(AssertionError, match="you gave the shape"):
        exercises.check(number, lambda *given: changed(answer(*given), lambda output: output[..., None]))


def changed(output, change):
    """Of several outputs the last one."""
    if isinstance(output, tuple):
        return (*output[:-1], changed(output[-1], change))
    return change(np.asarray(output))


def a_little(output):
    return ~output if output.dtype == bool else output * 1.01 + 0.01


def test_every_chapter_has_an_exercise_and_stands_in_the_readme():
    assert [int(number) for number, _ in CHAPTERS] == list(range(1, 13))
    assert re.findall(r"\*\*Exercise (\d+)\.\*\*", SCRIPT) == [number for number, _ in CHAPTERS]
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^(\d+)\. (.*)$", readme, re.MULTILINE) == CHAPTERS


def test_the_notebook_has_the_script_s_code_and_its_outputs():
    """Without the extra `docs`, which alone can execute it."""
    cells = json.loads((HERE / "walkthrough.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    lines = [re.sub(r"^# ?", "", line) for line in SCRIPT.splitlines() if line not in ("# +", "# -")]
    assert words(text) == words("\n".join(lines))
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert {(output["output_type"], output["name"]) for output in outputs} == {("stream", "stdout")}
    assert outputs[-1]["text"] == ["All that was asserted holds.\n"]


def words(text: str) -> list[str]:
    """Without a comment's sign, which a markdown cell has not."""
    return [word for word in text.split() if word != "#"]


@pytest.mark.slow
def test_it_runs_as_a_script_and_as_a_notebook():
    commands = [["walkthrough.py"]]
    if find_spec("nbclient"):
        commands.append(["-m", "experiments.walkthrough", "--check"])
    for command in commands:
        folder = ROOT if "-m" in command else HERE
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [0, 13])
def test_another_number_of_an_exercise_is_one_sentence(number, course):
    with pytest.raises(ValueError, match=f"There is no exercise {number}: give a number from 1 to 12"):
        course[0].check(number, len)
