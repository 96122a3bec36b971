"""A state dict's block: all names under one prefix, picked by the layer's number."""

import re
from collections.abc import Collection

from moejax.huggingface.families import Family


def block_prefix(names: Collection[str], family: Family, layer: int | str | None) -> str:
    """What stands before the names of a block's arrays.

    Args:
      names: of the state dict.
      layer: the layer's number, or the beginning of its names where a number says too little (an encoder's and a
        decoder's layers); None: the only one.

    Raises ValueError, in one sentence that names the MoE layers, unless there is just one such block.
    """
    routers = family.names["router.kernel"] + family.published.get("router.kernel", ())
    prefixes = [name.removesuffix(router) for name in names for router in routers if f".{name}".endswith(f".{router}")]
    found = [prefix for prefix in prefixes if layer is None or _is(prefix, layer)]
    if len(found) == 1:
        return found[0]
    if not prefixes:
        return ""  # what is missing is said with all other names
    if layer is None:
        raise ValueError(f"layer is None, but the weights have several MoE layers: {_listed(prefixes)}; pick one.")
    if found:
        candidates = " or ".join(prefix.rstrip(".") for prefix in found)
        raise ValueError(f"layer is {layer!r}, which could be {candidates}; pass one of these.")
    raise ValueError(f"layer is {layer!r}; the MoE layers of these weights are {_listed(prefixes)}.")


def _is(prefix: str, layer: int | str) -> bool:
    return prefix.startswith(layer.rstrip(".") + ".") if isinstance(layer, str) else _number(prefix) == layer


def _number(prefix: str) -> int | None:
    """The first number among the parts of a name."""
    number = re.search(r"(?:^|\.)(\d+)\.", prefix)
    return int(number[1]) if number else None


def _listed(prefixes: list[str]) -> str:
    """Their numbers where these are all different, else the names themselves."""
    numbers = sorted({number for prefix in prefixes if (number := _number(prefix)) is not None})
    if len(numbers) < len(prefixes):
        return ", ".join(prefix.rstrip(".") or "one without a number" for prefix in prefixes)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
