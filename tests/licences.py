"""python -m tests.licences: write tests/licences.md, the licence of each library that moejax needs, and theirs."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moejax.files import write_whole
from moejax.report.markdown import markdown

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).parent / "licences.md"

# Names that occur in metadata from before SPDX expressions; "BSD" leaves open how many clauses.
NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# One may use, change and pass on what has these, beside code of another licence.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU"),
    *("MPL-2.0", "PSF-2.0", "Zlib"),
}


def needed() -> list[Distribution]:
    """What the project's requirements bring into this environment, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    todo = [Requirement(line) for line in project["dependencies"]]
    while todo:
        asked = todo.pop()
        key = canonicalize_name(asked.name), frozenset(asked.extras)
        if key not in found:
            found[key] = distribution(asked.name)
            todo += _of(found[key], {"", *asked.extras})
    return list({name: one for (name, _), one in sorted(found.items(), key=lambda item: item[0][0])}.values())


def _of(one: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for line in one.requires or ():
        asked = Requirement(line)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in extras):
            yield asked


def licence(one: Distribution) -> str:
    """An SPDX expression, as far as its metadata tell; empty if they do not."""
    if expression := one.metadata.get("License-Expression"):
        return expression
    stated = ((one.metadata.get("License") or "").strip().splitlines() or [""])[0]  # else the whole text
    stated = NAMES.get(stated, stated)
    if re.fullmatch(r"[\w.+-]+( (AND|OR) [\w.+-]+)*", stated):
        return stated
    classes = [line for line in one.metadata.get_all("Classifier", []) if line.startswith("License :: ")]
    return " AND ".join(NAMES.get(name, name) for name in (line.split(" :: ")[-1] for line in classes))


def allowed(expression: str) -> bool:
    """Whether one of its alternatives has allowed licences alone."""
    either = re.sub("[()]", " ", expression).split(" OR ")
    return any(all(part.strip() in ALLOWED for part in one.split(" AND ")) for one in either)


def table() -> str:
    """A line for each library."""
    lines = [(canonicalize_name(one.metadata["Name"]), licence(one)) for one in needed()]
    return markdown(("library", "licence"), lines)


if __name__ == "__main__":
    write_whole(FILE, table())
