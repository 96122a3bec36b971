"""The house rules that a program can check: lint, format, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-c", "from importlinter.cli import lint_imports_command as main; main()"],
    ],
    ids=["lint", "format", "imports"],
)
def test_house_rules(command):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_right_at_the_basic_level():
    """What editors and callers with a type checker rely on: `py.typed` says that there are types."""
    pytest.importorskip("mypy", reason="of the extra `test`")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_test_files_have_one_name():
    """Else pytest runs one of them alone, by whose name it finds the other."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("folder", ["moejax", "benchmarks", "experiments"])
def test_whatever_is_read_or_written_as_text_names_its_encoding(folder):
    """Else it depends on the locale, and a folder made on one machine cannot be read on another."""
    for file in (ROOT / folder).rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _is_text(call):
                assert "encoding" in {k.arg for k in call.keywords}, f"{file}:{call.lineno}"


def _is_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    words = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    if (isinstance(call.func, ast.Name) and name == "open") or (name == "open" and (words or not call.args)):
        return not any("b" in word for word in words)
    as_text = any(k.arg in ("text", "universal_newlines") for k in call.keywords)
    return name in ("read_text", "write_text") or (as_text and name in ("run", "Popen", "check_output"))
