"""A run that begins from another one's parameters (`--init RUN`), also one of experts from a dense one (`--upcycle`).

An array of the new network is taken from the other run's where that has one of the same name, shape and type; all else
begins anew. Upcycled, every expert is a copy of the run's only one, or of the feed-forward layer in whose place it is
(`moejax.upcycling`), and at first the network computes what that one did.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from moejax import manifest
from moejax.config import Config
from moejax.errors import UserError
from moejax.options import in_words
from moejax.router_updates import moe_layers
from moejax.runs import checkpoint
from moejax.runs.checkpoint import shape_of
from moejax.runs.folder import read_config
from moejax.upcycling import difference

NAME = "init.json"  # what a run's folder has of it
KEYS = {"run", "step", "sha256"}
_OF_ONE = ("dense", "multi_gate")  # layers of one expert, which compute what that does
Shapes = Mapping[str, Any]  # an array or its shape and type, by name


@dataclass(frozen=True)
class Beginning:
    """What a network takes of a run's checkpoint.

    Attributes:
      config: of that run.
      of: its folder.
      checkpoint: the folder of its checkpoint, verified: that with which it was tested.
      taken: by the name of an array of the network, its name in the checkpoint.
      listed: a line for each array that begins anew, and for each of the run's that the network has not.
      copied: arrays of experts that are copies.
    """

    config: Config
    of: Path
    checkpoint: Path
    taken: Mapping[str, str]
    listed: tuple[str, ...]
    copied: int

    @property
    def record(self) -> dict[str, Any]:
        """The run, the step and the digest of its checkpoint, for JSON."""
        digest = manifest.seal(manifest.read(self.checkpoint) or {})
        return {"run": str(self.of.absolute()), "step": int(self.checkpoint.name), "sha256": digest}

    def arrays(self) -> dict[str, ndarray]:
        """What is taken, by the names of the network's arrays."""
        restored = checkpoint.arrays(self.checkpoint, self.taken.values())
        return {name: np.asarray(restored[saved]) for name, saved in self.taken.items()}

    def said(self) -> Iterator[str]:
        """Lines on what was taken and what was not."""
        count = len(self.taken)
        arrays = f"{count} arrays are taken" if count > 1 else "1 array is taken"
        copies = f", {self.copied} of them by each expert" if self.copied else ""
        yield (
            f"beginning from {self.of} as it was at step {self.checkpoint.name}: {arrays}{copies}"
            + (", but" if self.listed else "")
        )
        yield from self.listed


def beginning(config: Config, model: nnx.Module) -> Beginning:
    """What `model`, which may hold shapes alone, takes of the run that `config.init` names.

    UserError if that is no run, has no whole checkpoint, or nothing that fits; and if it cannot be upcycled.
    """
    run = Path(config.init)
    source = read_config(run)
    folder = checkpoint.chosen(run.absolute() / "checkpoints", source.train.tested)
    there = checkpoint.saved(folder)
    places = _evaluated(there, average=source.train.average > 0)
    wanted = checkpoint.named(model, checkpoint.MODEL)
    taken = {name: places[name] for name, a in wanted.items() if name in places and _alike(a, there[places[name]])}
    same = len(taken)
    if config.upcycle:
        _refuse(config, model, source)
        taken |= _copies(wanted, places, there, taken, source)
    if not taken:
        raise UserError(
            f"init is {config.init}, but no array of its network fits this one by name and shape; give it the run's own"
            " model.name, model.width and moe.hidden, or leave --init out."
        )
    used = set(taken.values())
    unused = (name for name in places if name not in wanted and places[name] not in used)
    listed = (
        *_drops(config),
        *_anew(wanted, taken, places, there, config),
        *(f"  not used: {_short(name)}, {shape_of(there[places[name]])}" for name in unused),
    )
    return Beginning(source, run, folder, taken, listed, len(taken) - same)


def filled(model: nnx.Module, arrays: Mapping[str, Array | ndarray]) -> nnx.Module:
    """The model with these arrays by name in place of its own; of an array without an axis of experts, copies."""
    if not arrays:
        return model

    def of(path: tuple, leaf: Array) -> Array:
        name = checkpoint.MODEL + jax.tree_util.keystr(path)
        return jnp.broadcast_to(arrays[name], leaf.shape) if name in arrays else leaf

    return jax.tree.map_with_path(of, model)


def _evaluated(there: Shapes, *, average: bool) -> dict[str, str]:
    """By the names of a model's arrays, where a checkpoint has them as they were evaluated."""
    own = {name: name for name in there if name.startswith(checkpoint.MODEL)}
    return own | (checkpoint.averages(there) if average else {})


def _copies(wanted: Shapes, places: Mapping[str, str], there: Shapes, taken: Mapping, source: Config) -> dict[str, str]:
    """What each expert is a copy of; UserError for one that is a copy of nothing."""
    found = {}
    for name, array in wanted.items():
        if ".experts." not in name or name in taken:
            continue
        one, dense = places.get(name), places.get(name.replace(".moe.experts.", ".mlp."))
        if one and source.moe.layer in _OF_ONE and _alike(array, there[one], (1, *array.shape[1:])):
            found[name] = one
        elif dense and _alike(array, there[dense], array.shape[1:]):
            found[name] = dense
        else:
            has = f"{shape_of(there[one])} in moe.layer {source.moe.layer}" if one else "nothing"
            raise UserError(
                f"upcycle is true, which copies the one expert of a dense layer, but for {_short(name)},"
                f" {shape_of(array)}, the run has {has}; give it a run with moe.layer dense and moe.num_experts 1, of"
                " the same moe.hidden and moe.expert."
            )
    if not found:
        raise UserError("upcycle is true, but the run has as many experts as this one; leave --upcycle out.")
    return found


def _refuse(config: Config, model: nnx.Module, source: Config) -> None:
    """UserError if a network whose experts are all alike would not compute what the dense one does."""
    if config.moe.layer == "soft":
        raise UserError(
            "upcycle is true, but moe.layer is soft, whose experts see mixtures of tokens, so that the network would"
            " not compute what the dense one does; use sparse."
        )
    if getattr(config.moe, "shared", 0) and not getattr(source.moe, "shared", 0):
        raise UserError(
            f"upcycle is true, but moe.shared is {config.moe.shared}, an expert that adds to what the dense network"
            " computes; set it to 0."
        )
    for layer in moe_layers(model) if config.moe.layer == "sparse" else ():
        if said := difference(layer):
            raise UserError(f"upcycle is true, but {in_words(said, 'moe.')}.")


def _drops(config: Config) -> Iterator[str]:
    """What to say of an upcycled network that may drop tokens, which the dense one never did."""
    moe = config.moe
    factors = {name: getattr(moe, name, None) for name in ("capacity_factor", "eval_capacity_factor")}
    if config.upcycle and getattr(moe, "dispatch", "grouped") != "grouped" and any(factors.values()):
        said = " and ".join(f"moe.{name} {factor:g}" for name, factor in factors.items() if factor)
        yield f"  note: with {said} tokens may be dropped, which the dense network never did; none drops nothing"


def _anew(wanted: Shapes, taken: Mapping, places: Mapping[str, str], there: Shapes, config: Config) -> Iterator[str]:
    for name, array in wanted.items():
        if name not in taken:
            has = f"the run has {shape_of(there[places[name]])}" if name in places else "the run has none"
            frozen = config.train.frozen is not None and _short(name).startswith(config.train.frozen)
            yield f"  begins anew: {_short(name)}, {shape_of(array)}; {has}" + ("; train.frozen keeps it so" * frozen)


def _alike(array: Any, other: Any, shape: tuple[int, ...] | None = None) -> bool:
    """Whether the other one has this type, and this shape or the array's."""
    return tuple(other.shape) == tuple(array.shape if shape is None else shape) and other.dtype == array.dtype


def _short(name: str) -> str:
    return name.removeprefix(f"{checkpoint.MODEL}.").removesuffix(".value")
