"""Checkpoints: the latest and the best state of a run, or that of every epoch, verified before use.

orbax writes them (atomically, one folder a step, each process its part) and keeps those. It does not notice a flipped
bit in array data, and casts a wrong dtype silently; so a sha256 of every file is written last and checked first, and
names, shapes and dtypes are compared before anything is restored.
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from moejax.errors import UserError
from moejax.training.loop import TrainState
from moejax.training.processes import is_first

_MANIFEST = "sha256.json"
_BEST = BestN(get_metric_fn=lambda m: m["accuracy"], n=1, keep_checkpoints_without_metrics=False)


class Checkpoints:
    """The `checkpoints/` folder of a run; `keep_all`: nothing that was saved is dropped."""

    def __init__(self, folder: Path, *, keep_all: bool = False):
        self.folder = folder.absolute()
        policy = LatestN(None) if keep_all else AnyPreservationPolicy([LatestN(1), _BEST])
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(preservation_policy=policy, enable_async_checkpointing=False),
        )

    def save(self, state: TrainState, accuracy: float | None) -> None:
        """Write the state under its step, then its manifest; unless all are kept, drop what is neither latest
        nor best by `accuracy`."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.StandardSave(_flatten(state)),
            metrics=None if accuracy is None else {"accuracy": accuracy},
        )
        if not is_first():
            return
        folder = self.folder / str(step)
        partial = folder / f"{_MANIFEST}.partial"
        partial.write_text(json.dumps(_digests(folder), indent=1), encoding="utf-8")
        partial.replace(folder / _MANIFEST)

    def steps(self) -> list[int]:
        """The steps whose manifests were written."""
        return [s for s in self._manager.all_steps() if (self.folder / str(s) / _MANIFEST).exists()]

    def latest(self) -> int | None:
        """The newest of them; None if there is none."""
        return max(self.steps(), default=None)

    def restore(self, step: int, like: TrainState, otherwise: TrainState | None = None) -> TrainState:
        """The state saved at `step`; `like` gives structure and devices, or else `otherwise`, if it has those names.

        UserError if a file or the structure differs.
        """
        folder = self.folder / str(step)
        _verify(folder)
        saved = self._manager.item_metadata(step).tree
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
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(restored[name]) for name in expected])


def _flatten(state: TrainState) -> dict[str, jax.Array | jax.ShapeDtypeStruct]:
    """Arrays by path, such as `.model.blocks[0].moe.router.value`: readable, and free of this library's classes."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def _shape(array) -> str:
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(_MANIFEST))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _verify(folder: Path) -> None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise UserError(
            f"The checkpoint {folder} has no readable {_MANIFEST}; it was not written to its end."
        ) from None
    actual = _digests(folder)
    for name in sorted(manifest.keys() | actual.keys()):
        if manifest.get(name) != actual.get(name):
            raise UserError(
                f"The checkpoint file {folder / name} is not what was written; delete {folder} and resume again."
            )
