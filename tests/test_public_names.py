"""What `import moejax` gives: by name, to editors, and in an installed package."""

import ast
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import moejax

FOLDER = Path(moejax.__file__).parent


def test_every_public_name_is_where_the_package_says():
    for name in moejax.__all__:
        assert getattr(moejax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = moejax.nothing
    assert "__version__" in dir(moejax)


def test_every_public_name_says_what_it_is():
    """And every method that one calls, a layer's own call included."""
    for name, member in ((name, getattr(moejax, name)) for name in moejax.__all__):
        assert inspect.getdoc(member), name
        own = vars(member).items() if inspect.isclass(member) else ()
        asked = {f: getattr(member, f) for f, _ in own if f == "__call__" or f[0] != "_"}
        ours = {f: method for f, method in asked.items() if getattr(method, "__module__", "").startswith("moejax")}
        assert [f for f, method in ours.items() if not inspect.getdoc(method)] == [], name


def test_editors_see_the_same_names_from_the_same_modules():
    stub = ast.parse((FOLDER / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = {node.module.removeprefix("moejax").lstrip("."): {a.asname for a in node.names} for node in imports}
    assert seen == {module: set(names) for module, names in {"": moejax.MODULES, **moejax._HOME}.items()}
    assert all(alias.asname == alias.name for node in imports for alias in node.names)  # `as` makes it public


def test_the_installed_package_has_its_version_and_its_types(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    (tmp_path / "moejax").mkdir()
    of_package = ("moejax/__init__.py", "moejax/__init__.pyi", "moejax/py.typed")
    for name in ("pyproject.toml", "README.md", "LICENSE", *of_package):
        shutil.copy(FOLDER.parent / name, tmp_path / name)
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(tmp_path)]
    subprocess.run([sys.executable, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"moejax-{moejax.__version__}-")
    assert set(of_package) <= set(zipfile.ZipFile(wheel).namelist())
