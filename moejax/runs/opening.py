"""From a run's folder, or from a file that `moejax export` wrote, to its model."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.config import Config, flatten
from moejax.errors import UserError, path_problem
from moejax.models import build_model
from moejax.routers import ROUTERS
from moejax.runs import checkpoint as checkpoints
from moejax.runs import tensors
from moejax.runs.about import About
from moejax.runs.folder import read_config
from moejax.runs.model import Model


def load(run: str | Path, checkpoint: str | int | None = None) -> Model:
    """The model of a run's folder, or of a file `….safetensors` that `moejax export` wrote.

    Args:
      checkpoint: `best` on the validation examples, `last`, or a step; by default the one that the run is tested with,
        `train.tested`. Its files are compared with their sha256 before they are used.

    Raises UserError, in one sentence, for a folder that is no run, a checkpoint that is missing or damaged, and one of
    another network than config.json has.
    """
    if problem := path_problem(str(run)):
        raise UserError(f"The run is {problem}.")
    path = Path(run)
    if path.suffix == tensors.SUFFIX:
        if checkpoint is not None:
            raise UserError(f"checkpoint is {checkpoint!r}, but {path} holds one alone; leave it out.")
        return _of_file(path)
    config = read_config(path)
    which = config.train.tested if checkpoint is None else checkpoint
    return _of_checkpoint(config, checkpoints.chosen(path.absolute() / "checkpoints", which))


def alone(config: Config) -> Config:
    """The configuration in which no token of an example competes with those of another one, and none is dropped."""
    if config.moe.layer != "sparse":
        return config
    capacity = {"eval_capacity_factor": None} if ROUTERS[config.moe.router].token_choice else {}
    return config.replace(moe={"group_size": 0} | capacity)


def empty(config: Config, about: About) -> nnx.Module:
    """The network with shapes in place of arrays."""
    return shapes(alone(config), about)


def shapes(config: Config, about: About) -> nnx.Module:
    """The same of a configuration as it is, in which tokens may compete."""
    make = partial(build_model, config, about.to_answer, image_shape=about.image_shape)
    return jax.eval_shape(lambda: make(nnx.Rngs(0)))


def under(config: Config, model: Model) -> Model:
    """The same parameters in the network of another configuration, in which they are alike."""
    leaves, structure = jax.tree.leaves(model.module), jax.tree.structure(shapes(config, model.about))
    return Model(config, model.about, jax.tree.unflatten(structure, leaves), model.step)


def _check_own(config: Config, checkpoint: Path) -> None:
    """UserError if config.json has another network than the one that a verified checkpoint is of."""
    file = checkpoint / checkpoints.IDENTITY
    then = json.loads(file.read_text(encoding="utf-8"))["config"] if file.exists() else {}  # none: an older version's
    for name, value in flatten(config).items():
        if name.startswith(("model.", "moe.", "data.name")) and name in then and then[name] != value:
            raise UserError(
                f"{name} is {value}, but the checkpoint {checkpoint} was made with {then[name]}; set it back in"
                f" {checkpoint.parent.parent / 'config.json'}."
            )


def _of_checkpoint(config: Config, folder: Path) -> Model:
    _check_own(config, folder)
    about = About.read(folder)
    module = empty(config, about)
    expected, there = checkpoints.named(module, checkpoints.MODEL), checkpoints.saved(folder)
    checkpoints.check(folder, expected, there, expected)
    places = {name: name for name in expected} | (checkpoints.averages(there) if config.train.average else {})
    arrays = checkpoints.restore(folder, {place: expected[name] for name, place in places.items()})
    leaves = [jnp.asarray(arrays[places[name]]) for name in expected]
    return Model(config, about, jax.tree.unflatten(jax.tree.structure(module), leaves), int(folder.name))


def _of_file(path: Path) -> Model:
    kept = tensors.read(path)
    module = empty(kept.config, kept.about)
    expected = {tensors.name_of(name): leaf for name, leaf in checkpoints.named(module).items()}
    checkpoints.check(path, expected, kept.arrays, expected.keys() | kept.arrays.keys())
    leaves = [jnp.asarray(kept.arrays[name]) for name in expected]
    return Model(kept.config, kept.about, jax.tree.unflatten(jax.tree.structure(module), leaves), kept.step)
