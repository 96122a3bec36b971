"""The built package by itself: outside the checkout, with an empty home, every verb does its work."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from moejax.verbs import VERBS

ROOT = Path(__file__).parent.parent
UNTYPED = {
    "doctor",
    "completion",
    "serve",
    "generate",
}  # doctor judges the machine; the others have tests with what they need


def test_an_editable_install_is_found_from_beside_a_clone_that_has_the_librarys_name(tmp_path):
    """There `import moejax` sees the clone first, a folder without __init__.py; a package in the path wins."""
    pytest.importorskip("setuptools", minversion="77")
    clone = tmp_path / "moejax"
    shutil.copytree(ROOT / "moejax", clone / "moejax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    found = f"import site; site.addsitedir({str(site)!r}); import moejax; print(moejax.__file__)"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", found], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.stdout.strip() == str(clone / "moejax" / "__init__.py"), done.stderr


@pytest.mark.slow
def test_every_verb_works_where_only_the_wheel_is(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source, site, home = (tmp_path / name for name in ("source", "site", "home"))
    shutil.copytree(ROOT / "moejax", source / "moejax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run([sys.executable, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    home.mkdir()
    shutil.copy(ROOT / "tests" / "plain_verbs.py", home)
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MOEJAX_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "plain_verbs.py", str(site)],
        cwd=home,
        env=alone | {"HOME": str(home), "PYTHONPATH": str(site)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    typed = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("$ moejax ")}
    assert VERBS.keys() - typed <= UNTYPED
