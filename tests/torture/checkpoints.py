"""Every file of a checkpoint and of a run's folder damaged in every way: it is noticed, or nothing depends on it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import jax
import numpy as np

from moejax import manifest
from moejax.runs import checkpoint
from moejax.runs.verify import verify
from moejax.training.checkpoint import Checkpoints
from tests.torture.damage import damages, files, linked
from tests.torture.figure import Figure, figure
from tests.torture.readers import DRAWN, try_readers
from tests.torture.small_runs import image_run, say, text_run

SEED = 23


def torture(quick: bool) -> Iterator[Figure]:
    """A figure for each kind of file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        image, words = image_run(folder), text_run(folder)
        yield _every_bit(image, every=389 if quick else 1)
        yield _newest(image, *((3, 1) if quick else (60, 12)))
        yield _misfits(image, words)
        yield _noticed((image, words), *((1, 1, 15) if quick else (60, 12, 1)))
        yield _read((image, words), *((1, 1, 9, 60) if quick else (60, 12, 1, 100)))


def _every_bit(run: Path, every: int) -> Figure:
    """Each bit of each file of the newest checkpoint, by what tells whether a file is what was written."""
    folder, cases, wrong = _newest_of(run), 0, []
    recorded = manifest.read(folder)["files"]
    for name in files(folder):
        path = folder / name
        content = path.read_bytes()
        for bit in range(0, 8 * len(content), every):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            if name == manifest.NAME:
                passed = manifest.read(folder) is not None
            else:
                passed = manifest.digests(folder, [path]) == {name: recorded[name]}
            cases += 1
            wrong += [f"bit {bit} of {name}"] * passed
        path.write_bytes(content)
    how = "all" if every == 1 else f"each {every}th"
    return figure(f"flip one bit of a checkpoint ({how})", cases, wrong, "all noticed")


def _newest(run: Path, flips: int, others: int) -> Figure:
    """Each damage to the newest one: the run that goes on warns, and goes on from the one before."""
    newest, cases, harmless, wrong = _newest_of(run), 0, 0, []
    before, last = checkpoint.steps(newest.parent)
    whole = checkpoint.arrays(newest)
    for damage in damages(newest, files(newest), flips, others, SEED):
        with tempfile.TemporaryDirectory() as place:
            copy = linked(newest.parent, Path(place) / "checkpoints")
            if not damage.do(copy / str(last)):
                continue
            cases += 1
            said: list[str] = []
            step = Checkpoints(copy).latest(said.append)
            if step == last and not said and _same(checkpoint.arrays(copy / str(last)), whole):
                harmless += 1
            elif step != before or len(said) != 1 or str(copy / str(last)) not in said[0]:
                wrong.append(f"{damage}: step {step}, {said}")
    found = f"{cases - harmless} fall back with a warning, {harmless} harmless"
    return figure("damage the newest checkpoint", cases, wrong, found)


def _misfits(image: Path, words: Path) -> Figure:
    """Another run's checkpoint, and arrays of other shapes and dtypes under a right manifest: one sentence."""
    wrong, cases = [], 0

    def expect(what: str, change: Callable[[Path], None], run: Path) -> None:
        nonlocal cases
        cases += 1
        with tempfile.TemporaryDirectory() as place:
            copy = linked(run, Path(place) / run.name)
            (copy / "summary.json").unlink()  # it is not finished
            change(_newest_of(copy))
            for words_ in (["export", copy, "--format", "safetensors"], ["run", "--resume", copy]):
                said = say(*words_)
                if said.code != 2 or len(said.err.splitlines()) != 1:
                    wrong.append(f"{what}, {words_[0]}: {said}")

    def of(other: Path) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            shutil.rmtree(folder)
            shutil.copytree(_newest_of(other), folder)

        return change

    def reshaped(make: Callable[[np.ndarray], np.ndarray], number: int) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            import orbax.checkpoint as ocp

            arrays = checkpoint.arrays(folder)
            name = [name for name in sorted(arrays) if name.startswith(checkpoint.MODEL)][number]
            arrays[name] = jax.numpy.asarray(make(np.asarray(arrays[name])))
            shutil.rmtree(folder / checkpoint.ARRAYS)
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
                writer.save(folder / checkpoint.ARRAYS, args=ocp.args.StandardSave(arrays))
            (folder / manifest.NAME).unlink()
            manifest.write(folder, accuracy=None)

        return change

    expect("the checkpoint of a language model", of(words), image)
    expect("the checkpoint of a model of images", of(image), words)
    for number in range(3):
        expect("an axis more", reshaped(lambda a: a[None], number), image)
        expect("a row more", reshaped(lambda a: np.concatenate([a, a[:1]]), number), image)
        expect("half the precision", reshaped(lambda a: a.astype(np.float16), number), image)
        expect("whole numbers", reshaped(lambda a: a.astype(np.int32), number), image)
    return figure("another model, shape or dtype", cases, wrong, "one sentence each")


def _noticed(runs: tuple[Path, ...], flips: int, others: int, every: int) -> Figure:
    """Each damage to each file of a finished run's folder: `moejax verify` names that file."""
    cases, wrong = 0, []
    for run in runs:
        names = [name for name in files(run) if not name.startswith(DRAWN)]
        for damage in islice(damages(run, names, flips, others, SEED), 0, None, every):
            with tempfile.TemporaryDirectory() as place:
                copy = linked(run, Path(place) / run.name)
                if not damage.do(copy):
                    continue
                cases += 1
                found = {one.name: one for one in verify(copy) if one.wrong}
                whole = damage.file.rpartition(f"/{manifest.NAME}")[0] or damage.file
                if whole not in found:
                    wrong.append(f"{damage} of {run.name}: {sorted(found)}")
    return figure("moejax verify, each file of a run damaged", cases, wrong, "all named")


def _read(runs: tuple[Path, ...], *how: int) -> Figure:
    """The same, and what `report` and `compare` make of it."""
    cases, noticed, wrong = 0, 0, []
    for run in runs:
        more = try_readers(run, *how)
        cases, noticed, wrong = cases + more[0], noticed + more[1], wrong + more[2]
    found = f"{noticed} named, {cases - noticed} with the same page and tables"
    return figure("moejax report and compare, each file of a run damaged", cases, wrong, found)


def _newest_of(run: Path) -> Path:
    return run / "checkpoints" / str(checkpoint.steps(run / "checkpoints")[-1])


def _same(some: dict[str, jax.Array], others: dict[str, jax.Array]) -> bool:
    return some.keys() == others.keys() and all(bool((some[name] == others[name]).all()) for name in some)
