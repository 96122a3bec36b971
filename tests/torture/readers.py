"""What `moejax report` and `compare` make of a run with a damaged file: they name it, or say what they said before."""

import dataclasses
import json
import os
import pickle
import tempfile
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from moejax.comparison import compare
from moejax.errors import UserError
from moejax.report.record import read
from tests.torture.damage import damages, files, linked
from tests.torture.small_runs import say

SEED = 24
DRAWN = ("figures/", "report.html", ".lock")  # the report's own


class Answer(NamedTuple):
    """What a verb shows, and what it says beside that."""

    shown: bytes
    said: str


def try_readers(run: Path, flips: int, others: int, every: int, drawn: int) -> tuple[int, int, list[str]]:
    """Of each `every`th damage: cases, how many of them were noticed, and what is wrong.

    Pages and tables are made of one value, which is compared; of each `drawn`th case the page itself, by the command.
    """
    cases, noticed, wrong = 0, 0, []
    with tempfile.TemporaryDirectory() as place:
        copy, other = (linked(run, Path(place) / name) for name in ("run", "other"))
        whole, page = (_record(copy), _comparison(copy, other)), _report(copy)
        names = [name for name in files(run) if not name.startswith(DRAWN) and "/state/" not in name]
        for damage in islice(damages(run, names, flips, others, SEED), 0, None, every):
            if damage.do(copy):
                cases += 1
                name = Path(damage.file).name
                found = [(_record(copy), whole[0]), (_comparison(copy, other), whole[1])]
                found += [(_report(copy), page)] if cases % drawn == 1 else []
                noticed += any(name in now.said for now, _ in found)
                wrong += [f"{damage}: {now.said}" for now, then in found if name not in now.said and now != then]
            (copy / damage.file).unlink(missing_ok=True)
            os.link(run / damage.file, copy / damage.file)
    return cases, noticed, wrong


def _record(run: Path) -> Answer:
    """What the report is made of."""
    try:
        record = read(run)
    except UserError as error:
        return Answer(b"", str(error))
    return Answer(pickle.dumps(dataclasses.replace(record, remarks=())), "\n".join(record.remarks))


def _comparison(*runs: Path) -> Answer:
    try:
        found = compare(runs).as_json()
    except UserError as error:
        return Answer(b"", str(error))
    return Answer(json.dumps(found).encode(), "\n".join(found["remarks"]))


def _report(run: Path) -> Answer:
    said = say("report", run)
    if said.code not in (0, 2):
        return Answer(b"", f"exit code {said.code}")
    return Answer((run / "report.html").read_bytes() if said.code == 0 else b"", said.err)
