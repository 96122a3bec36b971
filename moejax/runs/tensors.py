"""A model as one safetensors file: its arrays by name, and in the metadata all that is needed to make it again.

An array's name is its path in the network: attributes and numbers of lists between dots, as in PyTorch.

    blocks.0.moe.router.kernel      [d, e]        the router's; of a sigmoid router also `bias`, which balances the load
    blocks.0.moe.experts.up.kernel  [e, d, h]     an axis of experts, then as Flax has it: inputs before outputs
    head.kernel                     [d, classes]

The metadata: `config`, what config.json holds; `data` and `tokenizer`, as `About` has them; `step`; `sha256` of all.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from moejax.config import Config, from_json, to_json
from moejax.data.library_errors import said_as
from moejax.errors import UserError
from moejax.runs.about import About
from moejax.runs.checkpoint import named
from moejax.runs.model import Model

SUFFIX = ".safetensors"
_FORMAT = "moejax 1"


class Kept(NamedTuple):
    """What a file holds."""

    config: Config
    about: About
    arrays: Mapping[str, ndarray]
    step: int


def pack(model: Model) -> bytes:
    """The content of the file of a model; its arrays come back bit by bit."""
    from safetensors.numpy import save

    arrays = {name_of(name): np.asarray(leaf) for name, leaf in named(model.module).items()}
    record, tokenizer = model.about.record()
    facts = {
        "format": _FORMAT,
        "config": to_json(model.config),
        "data": json.dumps(record),
        "step": str(model.step),
        **({} if tokenizer is None else {"tokenizer": tokenizer}),
    }
    return save(arrays, facts | {"sha256": _digest(facts, arrays)})


def read(path: Path) -> Kept:
    """What a file holds that `pack` made; UserError for any other one, and for a damaged one."""
    from safetensors import safe_open

    if not path.is_file():
        raise UserError(f"{path} is not a file; give one that moejax export wrote, or a run's folder.")
    with (
        said_as(lambda problem: f"{path} is not a safetensors file ({problem}); export it again."),
        safe_open(path, framework="numpy") as file,
    ):
        facts = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if facts.get("format") != _FORMAT:
        raise UserError(f"{path} is not of the form {_FORMAT!r}, but {facts.get('format')!r}; use moejax export.")
    mark = facts.pop("sha256", None)
    if mark != _digest(facts, arrays):
        raise UserError(f"{path} is not what was written; export it again.")
    config, problems = from_json(facts["config"], str(path))
    if problems:
        raise UserError(*problems)
    about = About.of(json.loads(facts["data"]), facts.get("tokenizer"))
    return Kept(config, about, arrays, int(facts["step"]))


def name_of(path: str) -> str:
    """A name between dots from a path such as `.blocks[0].moe.router.kernel.value`."""
    return path.removesuffix(".value").replace("[", ".").replace("]", "").removeprefix(".")


def _digest(facts: Mapping[str, str], arrays: Mapping[str, ndarray]) -> str:
    content = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype} {array.shape};".encode())
        content.update(array.tobytes())
    return content.hexdigest()
