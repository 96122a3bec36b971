"""The arrays of a block and those of a layer: which of theirs make up which of ours."""

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moejax.huggingface.families import Names


class Part(NamedTuple):
    """One array of ours, and the arrays of theirs that one after the other make it up."""

    variable: nnx.Variable
    names: tuple[str, ...]
    transposed: bool

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of theirs together."""
        *stacked, rows, columns = (1, *self.variable.shape)
        return (*stacked, columns, rows)[1:] if self.transposed else self.variable.shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each of theirs."""
        *stacked, columns = self.whole
        return self.whole if len(self.names) == 1 else (int(np.prod(stacked)) // len(self.names), columns)

    def join(self, arrays: list[np.ndarray]) -> jax.Array:
        """Our array, a copy."""
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays).reshape(self.whole)
        return jnp.array(whole.swapaxes(-1, -2) if self.transposed else whole)

    def split(self) -> dict[str, np.ndarray]:
        """Their arrays, copies."""
        whole = np.asarray(self.variable[...])
        whole = whole.swapaxes(-1, -2) if self.transposed else whole
        arrays = whole.reshape(len(self.names), *self.shape)
        return {name: np.array(array, order="C") for name, array in zip(self.names, arrays, strict=True)}


def parts(layer: Any, names: Names, input_first: bool = False) -> list[Part]:
    """The parts of a module by their names there; `input_first`: stacked experts are [e, in, out] there."""
    found = []
    for path, theirs in names.items():
        each = "{}" in theirs[0]
        if each:
            theirs = tuple(name.format(e) for e in range(layer.num_experts) for name in theirs)
        stacked = path.startswith("experts.") and not each
        transposed = path.endswith(".kernel") and not (stacked and input_first)
        found.append(Part(attrgetter(path)(layer), theirs, transposed))
    return found


def fill(parts: Iterable[Part], arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Put their arrays in place of ours; ValueError if one has another shape. `prefix`: what their names began with."""
    for part in parts:
        for name in part.names:
            if arrays[name].shape != part.shape:
                raise ValueError(
                    f"{prefix}{name} has the shape {arrays[name].shape}; the configuration makes it {part.shape}."
                )
        part.variable.set_value(part.join([arrays[name] for name in part.names]))


def names_of(parts: Iterable[Part]) -> set[str]:
    """Of all their arrays."""
    return {name for part in parts for name in part.names}


def check_names(what: str, have: set[str], want: set[str], whose: str) -> None:
    """ValueError, in one sentence, if names are missing or unknown; `whose`: such as "mixtral block"."""
    if missing := want - have:
        raise ValueError(f"the {what} have no {_listed(missing)}, which a {whose} needs.")
    if unknown := have - want:
        raise ValueError(f"the {what} have {_listed(unknown)}, for which a {whose} has no place.")


def _listed(names: set[str], most: int = 6) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def as_numpy(array: Any) -> np.ndarray:
    """An array as NumPy's, without a copy where it is in main memory; PyTorch's bfloat16 too, which NumPy has not."""
    if not type(array).__module__.startswith("torch"):
        return np.asarray(array)
    array = array.detach().cpu()
    if str(array.dtype) != "torch.bfloat16":
        return array.numpy()
    import torch  # is there: the array is one of its own

    return array.view(torch.int16).numpy().view(jnp.bfloat16)
