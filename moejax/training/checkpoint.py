"""Checkpoints: the latest and the best state of a run, or that of every epoch, verified before use.

A checkpoint is a folder named by its step: the state as orbax writes it (each process its part), the run's files of
that moment, and a manifest. It is written as STEP.partial, forced onto the disk, names too, and renamed: a folder named
by a step is whole, after a power cut as well. Older checkpoints are deleted only once that name is on the disk. How one
is read and verified: `moejax.runs.checkpoint`.
"""

import contextlib
import errno
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from moejax import manifest
from moejax.errors import UserError
from moejax.files import make_folder, sync
from moejax.runs import checkpoint
from moejax.training.loop import TrainState
from moejax.training.processes import is_first


class Checkpoints:
    """The `checkpoints/` folder of a run that goes on: opening it deletes what was not written to its end.

    `keep_all`: keep every checkpoint, not the latest and the best alone.
    """

    def __init__(self, folder: Path, *, keep_all: bool = False):
        self.folder, self.keep_all = folder.absolute(), keep_all
        self._checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        self._verified: set[int] = set()  # steps whose files are known to be what was written
        if is_first() and self.folder.exists():
            for left in self.folder.glob("*.partial"):
                shutil.rmtree(left)

    def save(self, state: TrainState, accuracy: float | None, files: Mapping[str, bytes] | None = None) -> None:
        """Write the state and `files`; then, unless all are kept, delete what is neither the latest nor the best.

        The best has the highest `accuracy`, the later one of two. UserError if that step has a checkpoint.
        """
        step = int(state.step)
        folder, partial = self.folder / str(step), self.folder / f"{step}.partial"
        if folder.exists():
            raise UserError(f"There is a checkpoint {folder} already, of another run; start in an empty --out.")
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.parent.stat()  # a run's folder that is gone is an error, and not made again
            make_folder(partial)
            _check_room(partial, state)
        with _errors_of_the_system(partial):
            self._checkpointer.save(partial / checkpoint.ARRAYS, args=ocp.args.StandardSave(checkpoint.named(state)))
        if not is_first():
            return
        for name, content in (files or {}).items():
            (partial / name).write_bytes(content)
        manifest.write(partial, accuracy=accuracy)
        partial.rename(folder)
        sync(self.folder)
        self.drop_all_but(step)

    def steps(self) -> list[int]:
        """The steps that were saved to their end, in their order."""
        return checkpoint.steps(self.folder)

    def latest(self, warn: Callable[[str], None] = lambda sentence: None) -> int | None:
        """The newest step whose files are what was written; None if nothing was saved.

        Damaged newer ones are renamed STEP.damaged, so that the run can write them again, each with a sentence to
        `warn`. UserError if every one is damaged.
        """
        steps, damages = self.steps()[::-1], []
        for step in steps:
            try:
                self._verify(step)
            except UserError as error:
                damages.append(error.sentences[0])
                continue
            for damaged, sentence in zip(steps, damages, strict=False):
                self._set_aside(damaged)
                warn(f"{sentence} Going on from step {step}; the damaged one is set aside as {damaged}.damaged.")
            return step
        if damages:
            raise UserError(*damages, f"No checkpoint is whole: delete {self.folder} to begin the run again.")
        return None

    def read(self, step: int, name: str) -> bytes:
        """One of the `files` that were saved with that step."""
        return (self.folder / str(step) / name).read_bytes()

    def restore(self, step: int, like: TrainState, otherwise: TrainState | None = None) -> TrainState:
        """The state saved at `step`, with the structure and on the devices of `like`, or of `otherwise` where the saved
        names are those of `otherwise`.

        UserError if a file is damaged, or an array is missing or of another shape or dtype; OSError if the files are
        deleted meanwhile.
        """
        self._verify(step)
        folder = self.folder / str(step)
        with _errors_of_the_system(folder):
            saved = checkpoint.saved(folder)
        if otherwise is not None and saved.keys() == checkpoint.named(otherwise).keys():
            like = otherwise
        expected = checkpoint.named(like)
        checkpoint.check(folder, expected, saved, expected.keys() | saved.keys())
        with _errors_of_the_system(folder):
            restored = checkpoint.restore(folder, expected)
        return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(restored[name]) for name in expected])

    def _verify(self, step: int) -> None:
        """UserError unless the files of that step are what was written; they are read once."""
        if step not in self._verified:
            manifest.verify(self.folder / str(step))
            self._verified.add(step)

    def drop_all_but(self, latest: int) -> None:
        """Delete all but it and the best, unless all are kept; those whose manifest cannot be read stay.

        A run that goes on from it has to: the one before may have ended as soon as it had saved.
        """
        if self.keep_all or not is_first():
            return
        steps = self.steps()
        best = checkpoint.best(self.folder, among=steps)
        for step in steps:
            if step not in (latest, best) and manifest.read(self.folder / str(step)):
                gone = self.folder / f"{step}.partial"
                (self.folder / str(step)).rename(gone)  # a half-deleted checkpoint must not have a step's name
                shutil.rmtree(gone)

    def _set_aside(self, step: int) -> None:
        if is_first():
            aside = self.folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)


def _check_room(folder: Path, state: TrainState) -> None:
    """OSError if the disk is too full for the state: half a checkpoint would fill it up."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**20  # for orbax's own files
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: a checkpoint needs {needed / 1e6:,.0f} MB", folder)


@contextlib.contextmanager
def _errors_of_the_system(folder: Path) -> Iterator[None]:
    """Inside, errors that orbax meets in files are OSErrors, and what its threads print about them is not shown."""
    level, code = logging.root.manager.disable, None
    alone = jax.process_count() == 1  # else another process's last words, which come by stderr, would be lost
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO() if alone else sys.stderr):
            try:
                yield
            except Exception as error:  # tensorstore calls them all ValueErrors, orbax some by other names
                says_so = isinstance(error, OSError) and bool(error.filename)
                code = None if says_so else _code_of(error, folder)
                if says_so or code is not None:
                    _say_no_more()
                if code is None:
                    raise
    finally:
        logging.disable(level)
    if code:
        raise OSError(code, os.strerror(code), str(folder))


def _code_of(error: Exception, folder: Path) -> int | None:
    """The system's number of an error that was met in the folder; None if it is another's."""
    text = _text_of(error)
    if said := re.search(r"os_error_code='(\d+)'", text):
        return int(said[1])
    is_gone = re.search(r"not.found|no \w+ found|does not exist", text, re.IGNORECASE)  # in part, or all of it
    return errno.ENOENT if is_gone or not os.path.exists(folder) else None


def _text_of(error: BaseException | None) -> str:
    """What it says and what its causes do, which orbax leaves out of some that it raises anew."""
    return f"{error}\n{_text_of(error.__cause__)}" if error else ""


def _say_no_more() -> None:
    """Let orbax's other work, which may be under way still, fail without a word: their event loop is closed."""
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and "os_error_code=" in _text_of(record.exc_info[1]))
    )
    before = sys.unraisablehook

    def unless_of_a_write(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = unless_of_a_write
