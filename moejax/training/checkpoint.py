"""Checkpoints: the latest and the best state of a run, or that of every epoch, verified before use.

A checkpoint is a folder named by its step: the state as orbax writes it (each process its part), files of the run as
they stood, and a manifest. All of it is written under another name, forced onto the disk and then renamed. So what has
a step's name is whole, and older ones are deleted only after that. Orbax does not notice a flipped bit in array data,
and casts a wrong dtype silently: the manifest has a sha256 of every file, which is checked first, and names, shapes and
dtypes are compared before anything is restored.
"""

import contextlib
import errno
import gc
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from moejax.errors import UserError
from moejax.training.loop import TrainState
from moejax.training.processes import is_first

_MANIFEST = "sha256.json"


class Checkpoints:
    """The `checkpoints/` folder of a run, for who writes it; `keep_all`: nothing that was saved is dropped.

    Opening it removes what was not written to its end.
    """

    def __init__(self, folder: Path, *, keep_all: bool = False):
        self.folder, self.keep_all = folder.absolute(), keep_all
        self._checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        if is_first() and self.folder.exists():
            for left in {*self.folder.glob("*.partial"), *self._folders()} - {
                self.folder / str(s) for s in self.steps()
            }:
                shutil.rmtree(left)

    def save(self, state: TrainState, accuracy: float | None, files: Mapping[str, bytes] | None = None) -> None:
        """Write the state under its step, and `files` beside it; then, unless all are kept, drop what is neither
        latest nor best by `accuracy` (the later one of two).

        UserError if there is one of that step.
        """
        step = int(state.step)
        folder, partial = self.folder / str(step), self.folder / f"{step}.partial"
        if folder.exists():
            raise UserError(f"There is a checkpoint {folder} already, of another run; start in an empty --out.")
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _check_room(partial, state)
        with _errors_of_the_system(partial):
            self._checkpointer.save(partial / "state", args=ocp.args.StandardSave(_flatten(state)))
        if not is_first():
            return
        for name, content in (files or {}).items():
            (partial / name).write_bytes(content)
        manifest = {"accuracy": accuracy, "files": _digests(partial, flush=True)}
        (partial / _MANIFEST).write_text(json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1), encoding="utf-8")
        _flush(partial / _MANIFEST)
        partial.rename(folder)
        if not self.keep_all:
            self._drop_all_but(step)

    def steps(self) -> list[int]:
        """The steps that were saved to their end, in their order."""
        return sorted(int(folder.name) for folder in self._folders() if (folder / _MANIFEST).exists())

    def latest(self, warn: Callable[[str], None] = lambda sentence: None) -> int | None:
        """The newest of them whose files are what was written; None if nothing was saved.

        Newer ones are set aside as STEP.damaged, for the run to write them again, each with a sentence to `warn`.
        UserError if none of several is whole.
        """
        steps, damages = self.steps()[::-1], []
        for step in steps:
            try:
                _verify(self.folder / str(step))
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
        """The state saved at `step`; `like` gives structure and devices, or else `otherwise`, if it has those names.

        UserError if a file or the structure differs.
        """
        folder = self.folder / str(step)
        _verify(folder)
        saved = self._checkpointer.metadata(folder / "state").item_metadata.tree
        if otherwise is not None and saved.keys() == _flatten(otherwise).keys():
            like = otherwise
        expected = _flatten(like)
        for name in sorted(expected.keys() | saved.keys()):
            want, have = (_shape(tree[name]) if name in tree else "nothing" for tree in (expected, saved))
            if want != have:
                raise UserError(
                    f"The checkpoint {folder} holds {have} for {name} where this configuration needs {want};"
                    " resume it with the config.json it was made with."
                )
        here = jax.numpy.zeros(()).sharding  # not where the devices were that saved it
        abstract = {
            name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding or here) for name, a in expected.items()
        }
        restored = self._checkpointer.restore(folder / "state", args=ocp.args.StandardRestore(abstract))
        return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(restored[name]) for name in expected])

    def _folders(self) -> list[Path]:
        return [p for p in self.folder.iterdir() if p.name.isdecimal()] if self.folder.exists() else []

    def _drop_all_but(self, latest: int) -> None:
        """Delete those that are neither it nor the best; not one whose manifest cannot be read."""
        manifests = {step: _manifest(self.folder / str(step)) for step in self.steps()}
        accuracies = {step: m["accuracy"] for step, m in manifests.items() if m and m["accuracy"] is not None}
        best = max(accuracies, key=lambda step: (accuracies[step], step), default=latest)
        for step, manifest in manifests.items():
            if manifest and step not in (latest, best):
                gone = self.folder / f"{step}.partial"
                (self.folder / str(step)).rename(gone)  # so that one half deleted is not taken for one
                shutil.rmtree(gone)

    def _set_aside(self, step: int) -> None:
        if is_first():
            aside = self.folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)


def _flatten(state: TrainState) -> dict[str, jax.Array | jax.ShapeDtypeStruct]:
    """Arrays by path, such as `.model.blocks[0].moe.router.value`: readable, and free of this library's classes."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def _check_room(folder: Path, state: TrainState) -> None:
    """OSError if the disk is too full for the state: half a checkpoint would only take what room is left."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**20  # what orbax says about each array
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: a checkpoint needs {needed / 1e6:,.0f} MB", folder)


@contextlib.contextmanager
def _errors_of_the_system(folder: Path) -> Iterator[None]:
    """Inside, orbax's errors of writing are OSErrors, and what its threads say of them beside is not heard."""
    level, code = logging.root.manager.disable, None
    alone = jax.process_count() == 1  # else another process's last words come here meanwhile
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO() if alone else sys.stderr):
            try:
                yield
            except ValueError as error:  # as tensorstore calls them all
                code = re.search(r"os_error_code='(\d+)'", str(error))
                if code is None:
                    raise
            if code:
                gc.collect()  # what orbax began and did not end would be heard of later
    finally:
        logging.disable(level)
    if code:
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder))


def _shape(array) -> str:
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _digests(folder: Path, *, flush: bool = False) -> dict[str, str]:
    """The sha256 of each file but the manifest; `flush`: onto the disk with them."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _MANIFEST:
            digests[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
            if flush:
                _flush(path)
    return digests


def _flush(file: Path) -> None:
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest as it was written, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        seal = manifest.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return manifest if seal == _seal(manifest) else None


def _verify(folder: Path) -> None:
    manifest = _manifest(folder)
    if manifest is None:
        raise UserError(f"The checkpoint {folder} has no readable {_MANIFEST}; it was not written to its end.")
    actual = _digests(folder)
    for name in sorted(manifest["files"].keys() | actual.keys()):
        if manifest["files"].get(name) != actual.get(name):
            raise UserError(f"The checkpoint file {folder / name} is not what was written.")
