"""Two commits in turns:  python -m benchmarks compare --rev OLD --rev NEW --shape 4096,256,1024,16,2 [--rounds 3]

What follows goes to `python -m benchmarks layers`; --csv and --profile cannot. Each commit's library is put into a
folder of its own, beside the benchmark as it is here, and measured in processes of its own, in turns; a factor is the
median of those within each round. Exit status 1 if a factor is above the tolerance.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks.harness.results import ROOT
from benchmarks.harness.words import word
from benchmarks.suite import own_words
from moejax.errors import UserError
from moejax.options import Positive, up_to
from moejax.report.markdown import markdown

TOLERANCE = 1.05
NAMES = ("shape", "dtype", "layer", "router", "pass")  # which tell a row from others
Times = dict[tuple[str, ...], float]  # row → milliseconds


def main(words: Sequence[str]) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rev", action="append", required=True, metavar="COMMIT", help="twice: the old, then the new")
    parser.add_argument("--rounds", type=word(up_to(99)), default=3, metavar="N", help="(default: 3)")
    parser.add_argument(
        "--tolerance", type=word(Positive), default=TOLERANCE, help="factor still allowed (default: 1.05)"
    )
    asked, case = parser.parse_known_args(words)
    if len(asked.rev) != 2:
        raise UserError(f"--rev is there {len(asked.rev)} times; give it twice: the old commit, then the new one.")
    case = [*case, *absolute(own_words.understood(case))]
    with tempfile.TemporaryDirectory() as folder:
        places = [checkout(rev, Path(folder) / name) for rev, name in zip(asked.rev, ("old", "new"), strict=True)]
        rounds = [[measure(place, case) for place in places] for _ in range(asked.rounds)]
    lines, factors = [], []
    first, second = rounds[0]
    for row in (row for row in first if row in second):
        old, new = (np.array([both[i][row] for both in rounds]) for i in (0, 1))
        factors.append(float(np.median(new / old)))
        lines.append([*row, f"{np.median(old):.2f}", f"{np.median(new):.2f}", f"{factors[-1]:.2f}×"])
    print(markdown(["T, d, h, E, k", "type", "layer", "router", "pass", "old, ms", "new, ms", "slower by"], lines))
    for name, rows in (("old", first.keys() - second), ("new", second.keys() - first)):
        for layer, router in sorted({row[2:4] for row in rows}):
            print(f"Only the {name} commit can measure {layer}{router and f' with {router}'}.")
    slower = sum(factor > asked.tolerance for factor in factors)
    print(f"{slower} of {len(factors)} times are slower by more than {asked.tolerance:g}×.")
    return 1 if slower else 0


def absolute(asked: argparse.Namespace) -> list[str]:
    """Its file as a process elsewhere finds it, after what is wrong with the case is said.

    Raises:
      UserError: the case cannot be, or is to keep files.
    """
    for name in ("csv", "profile"):
        if place := getattr(asked, name):
            raise UserError(f"--{name} is {place}, but two commits are compared, and no files are kept; leave it.")
    own_words.loads(asked)
    return ["--given", str(asked.given.absolute())] if asked.given else []


def checkout(rev: str, place: Path) -> Path:
    """That commit's library, and today's benchmarks beside it."""
    unpack(rev, place)
    for room in ("benchmarks", "experiments"):
        shutil.copytree(ROOT / room, place / room, ignore=shutil.ignore_patterns("results*", "__pycache__"))
    return place


def unpack(rev: str, place: Path) -> None:
    """The library as that commit has it.

    Raises:
      UserError: there is no such commit.
    """
    archive = subprocess.run(["git", "archive", rev, "moejax"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise UserError(f"--rev {rev} is no commit of this repository that has the library.")
    with tarfile.TarFile(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(place, filter="data")


def measure(place: Path, case: Sequence[str]) -> Times:
    """Milliseconds of each row, in a process of its own.

    Raises:
      UserError: that library cannot be measured so, with the last that was said of it.
    """
    file = place / "rows.csv"
    command = [sys.executable, "-m", "benchmarks", "layers", *case, "--csv", str(file)]
    done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1].removeprefix("moejax: ")
        raise UserError(f"The {place.name} commit cannot be measured by today's benchmark: {said}")
    with open(file, newline="", encoding="utf-8") as rows:
        return {tuple(row[name] for name in NAMES): float(row["ms"]) for row in csv.DictReader(rows)}
