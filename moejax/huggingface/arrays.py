"""The arrays of a block and those of a layer: which of theirs make up which of ours."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moejax.huggingface.families import Names
from moejax.layers import SparseMoE


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


def parts(layer: SparseMoE, names: Names, input_first: bool) -> list[Part]:
    """The parts of a layer by their names in a block; `input_first`: stacked experts are [e, in, out] there."""
    found = []
    for path, theirs in names.items():
        each = "{}" in theirs[0]
        if each:
            theirs = tuple(name.format(e) for e in range(layer.num_experts) for name in theirs)
        stacked = path.startswith("experts.") and not each
        transposed = path.endswith(".kernel") and not (stacked and input_first)
        found.append(Part(attrgetter(path)(layer), theirs, transposed))
    return found


def names_of(parts: Iterable[Part]) -> set[str]:
    """Of all their arrays."""
    return {name for part in parts for name in part.names}


def as_numpy(array: Any) -> np.ndarray:
    """An array as NumPy's, without a copy where it is in main memory; PyTorch's bfloat16 too, which NumPy has not."""
    if not type(array).__module__.startswith("torch"):
        return np.asarray(array)
    array = array.detach().cpu()
    if str(array.dtype) != "torch.bfloat16":
        return array.numpy()
    import torch  # is there: the array is one of its own

    return array.view(torch.int16).numpy().view(jnp.bfloat16)
