"""Every kind of data file damaged, and hostile ones: read right or one sentence; bombs bounded, nothing executed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.torture.damage import damages
from tests.torture.figure import Figure, figure
from tests.torture.files import KINDS, SLOW, digest_of
from tests.torture.hostile import hostile
from tests.torture.outcome import Read, tried

SEED = 23


def torture(quick: bool) -> Iterator[Figure]:
    """A figure for each kind of file, then one for files that were made to do harm."""
    flips, others = (3, 1) if quick else (60, 20)
    for name, (make, read, sealed) in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            names = make(folder)
            slow = name in SLOW
            yield _mutated(folder, name, names, read, sealed, *((1, 1) if slow and quick else (flips, others)))
    yield hostile()


def _mutated(folder: Path, name: str, names: list[str], read: Read, sealed: bool, flips: int, others: int) -> Figure:
    """Each damage to each file; where the file is `sealed`, by a checksum, what is read must be what was written."""
    whole = {file: (folder / file).read_bytes() for file in names}
    expected = digest_of(read(folder))
    cases, right, wrong = 0, 0, []
    for damage in damages(folder, names, flips, others, SEED):
        if not damage.do(folder):
            (folder / damage.file).write_bytes(whole[damage.file])
            continue
        cases += 1
        outcome, value = tried(read, folder)
        if outcome == "read" and (not sealed or digest_of(value) == expected):
            right += 1
        elif outcome != "sentence":
            wrong.append(f"{damage}: {outcome if outcome != 'read' else 'another content without a word'}")
        (folder / damage.file).write_bytes(whole[damage.file])
    return figure(name, cases, wrong, f"{cases - right} refused in a sentence, {right} read")
