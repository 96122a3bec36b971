"""python .docs/reference.py [FOLDER]: write pages of all public names, with a search.

Needs the extra `docs`: pip install -e '.[docs]'. Whatever the generator warns of is an error.
"""

import argparse
import ast
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import moejax
from moejax import entry
from moejax.errors import require_libraries

HERE = Path(__file__).parent


class AsWritten:
    """An annotation in the words of the source: `Count`, where Python has all that pydantic made of it."""

    def __init__(self, source: ast.expr):
        self.text = ast.unparse(source)

    def __repr__(self) -> str:
        return self.text


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / "reference", help="where to, ./reference")
    asked = parser.parse_args()
    require_libraries("docs", "pdoc")
    import pdoc

    warnings.simplefilter("error")
    vars(moejax).update({name: getattr(moejax, name) for name in moejax.__all__})  # those that wait to be used
    for function in functions(moejax):
        annotate(function)
    for kind in records(moejax):
        describe(kind)
    pdoc.render.configure(docformat="google", template_directory=HERE)
    pdoc.pdoc("moejax", output_directory=asked.folder)
    print(f"{asked.folder}/moejax.html")


def members(module: ModuleType) -> Iterator[Any]:
    """What a module, and the modules it names, give to others."""
    for name in getattr(module, "__all__", vars(module)):
        member = getattr(module, name)
        if inspect.ismodule(member) and member.__name__.startswith("moejax."):
            yield from members(member)
        elif not name.startswith("_") and getattr(member, "__module__", "").startswith("moejax."):
            yield member


def functions(module: ModuleType) -> Iterator[Callable]:
    """Those of a module and of its classes, as they were written."""
    for member in members(module):
        for each in list(vars(member).values()) if inspect.isclass(member) else [member]:
            function = inspect.unwrap(getattr(each, "fget", None) or getattr(each, "__func__", each))
            if inspect.isfunction(function) and function.__module__.startswith("moejax."):
                yield function


def records(module: ModuleType) -> Iterator[type]:
    """Its named tuples."""
    return (member for member in members(module) if inspect.isclass(member) and hasattr(member, "_fields"))


def annotate(function: Callable) -> None:
    """Put what was written in place of what Python made of it."""
    try:
        written: Any = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except OSError:  # a dataclass wrote it
        return
    every = written.args.posonlyargs + written.args.args + written.args.kwonlyargs
    every += filter(None, (written.args.vararg, written.args.kwarg))
    annotations = {argument.arg: AsWritten(argument.annotation) for argument in every if argument.annotation}
    if written.returns:
        annotations["return"] = AsWritten(written.returns)
    function.__annotations__ = annotations


def describe(kind: type) -> None:
    """Say of each field of a named tuple what its line says behind the #; Python says which number it has."""
    source = inspect.getsource(kind)
    written: Any = ast.parse(source).body[0]
    fields = [line for line in written.body if isinstance(line, ast.AnnAssign)]
    kind.__annotations__ = {field.target.id: AsWritten(field.annotation) for field in fields}
    kind.__new__.__annotations__ = kind.__annotations__
    kind.__new__.__doc__ = ""
    for field in fields:
        vars(kind)[field.target.id].__doc__ = source.splitlines()[field.end_lineno - 1].partition("  # ")[2]


if __name__ == "__main__":
    entry.end(entry.run(main))
