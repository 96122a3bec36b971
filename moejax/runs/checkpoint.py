"""The checkpoints of a run, read: which there are, the latest, the best, and their arrays by name.

A checkpoint is a folder named by its step: arrays as orbax writes them, the run's files of that moment, and a manifest
(`moejax.training.checkpoint` writes it). Orbax does not notice a flipped bit and casts a wrong dtype without a word, so
before arrays are restored every file is verified, and every array's name, shape and dtype compared with what is
expected.
"""

import errno
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree

from moejax import manifest
from moejax.errors import UserError

ARRAYS = "state"  # orbax's folder in a checkpoint
IDENTITY = "identity.json"  # beside it: the configuration and data that it was made with
MODEL = ".model"  # what the names of a model's arrays begin with
_AVERAGE = ".parameters"  # what those of averaged parameters have before the rest of the name
Shapes = Mapping[str, Any]  # shapes and dtypes, or arrays, by name
T = TypeVar("T")


def steps(folder: Path) -> list[int]:
    """The steps that were saved to their end in a folder `checkpoints/`, damaged or not, in their order."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.exists() else []


def best(folder: Path, *, among: Iterable[int]) -> int | None:
    """Of these steps that of the highest validation accuracy, the later one of two; None if none has one.

    Steps whose manifest cannot be read are passed over.
    """
    manifests = {step: manifest.read(folder / str(step)) for step in among}
    accuracies = {step: m["accuracy"] for step, m in manifests.items() if m and m["accuracy"] is not None}
    return max(accuracies, key=lambda step: (accuracies[step], step), default=None)


def chosen(folder: Path, which: str | int) -> Path:
    """The checkpoint `last`, `best` (the last where nothing was validated) or of a step, verified.

    UserError if it is not there or damaged.
    """
    there = steps(folder)
    if not there:
        raise UserError(f"{folder.parent} has no checkpoint yet; let it train for an epoch.")
    step = there[-1] if which == "last" else which
    if which == "best":
        step = best(folder, among=there) or there[-1]
    if step not in there and str(step) not in map(str, there):
        steps_there = ", ".join(map(str, there))
        raise UserError(
            f"checkpoint is {which!r}, but {folder} has the steps {steps_there}; use last, best or one of these."
        )
    if which == "best" and (unread := [s for s in there if manifest.read(folder / str(s)) is None]):
        raise UserError(
            f"Which checkpoint of {folder} is the best cannot be told, for {folder / str(unread[0])} has no readable"
            f" {manifest.NAME}; use last, or a step."
        )
    try:
        manifest.verify(folder / str(step))
    except UserError as error:
        others = ", ".join(str(other) for other in there if str(other) != str(step))
        fix = f"choose another step: {others}" if others else "the run has no other checkpoint"
        raise UserError(f"{error.sentences[0].rstrip('.')}; {fix}.") from None
    return folder / str(step)


def named(tree: PyTree, prefix: str = "") -> dict[str, Any]:
    """Leaves by path, such as `.model.blocks[0].moe.router.value`: readable, and free of this library's classes."""
    return {prefix + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def averages(there: Iterable[str]) -> dict[str, str]:
    """By the names of a model's arrays, those of their moving averages, which the optimiser's last part keeps."""
    there, found = set(there), {}
    for name in sorted(there):
        _, _, learnt = name.partition(_AVERAGE)
        if learnt and MODEL + learnt in there:
            found[MODEL + learnt] = name
    return found


def _or_gone(read: Callable[..., T]) -> Callable[..., T]:
    """`read(checkpoint, …)`; FileNotFoundError if it fails and files are gone, which orbax says in many ways."""

    @functools.wraps(read)
    def reading(checkpoint: Path, *more: Any) -> T:
        try:
            return read(checkpoint, *more)
        except Exception:
            recorded = manifest.read(checkpoint)
            if recorded and all((checkpoint / name).exists() for name in recorded["files"]):
                raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(checkpoint))

    return reading


@_or_gone
def saved(checkpoint: Path) -> dict[str, Any]:
    """The shapes and dtypes of a checkpoint's arrays by name."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return reader.metadata(checkpoint / ARRAYS).item_metadata.tree


def check(checkpoint: Path, expected: Shapes, there: Shapes, names: Iterable[str]) -> None:
    """UserError if one of these arrays is missing, or of another shape or dtype than expected."""
    for name in sorted(names):
        want, have = (shape_of(tree[name]) if name in tree else "nothing" for tree in (expected, there))
        if want != have:
            raise UserError(
                f"The checkpoint {checkpoint} holds {have} for {name} where this configuration needs {want};"
                " resume it with the config.json it was made with."
            )


@_or_gone
def restore(checkpoint: Path, expected: Shapes) -> dict[str, Array]:
    """Those arrays of a verified checkpoint, of these shapes and dtypes, on one device if they name no sharding."""
    here = jax.numpy.zeros(()).sharding  # not where the devices were that saved it
    abstract = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None) or here)
        for name, a in expected.items()
    }
    asked = ocp.args.PyTreeRestore(
        abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(checkpoint / ARRAYS, args=asked)


def arrays(checkpoint: Path, names: Iterable[str] | None = None) -> dict[str, Array]:
    """Arrays of a verified checkpoint, by default all of them, as they were saved, on one device."""
    there = saved(checkpoint)
    names = there if names is None else names
    return restore(checkpoint, {name: jax.ShapeDtypeStruct(there[name].shape, there[name].dtype) for name in names})


def shape_of(array: Any) -> str:
    """Type and shape, such as `float32[8, 48]`."""
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"
