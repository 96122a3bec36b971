"""Configuration: a run's options, each declared with what it configures, put together by name.

    config = make_config(name="mine", moe={"layer": "soft", "slots": 2}, train={"epochs": 1})
    config.replace(moe={"layer": "sparse"})

`schema` finds the options that there are for the names chosen, `config` makes values of them, `text` reads and writes
`config.json`, `suggest` tells what a wrong name may have meant. Names are imported when first used: the schema imports
all that has options, and so JAX.
"""

import importlib
from typing import Any

_HOME = {
    **dict.fromkeys(("Config", "configured", "make_config", "wrong_words"), "config"),
    **dict.fromkeys(("flatten", "from_json", "to_json"), "text"),
    **dict.fromkeys(("data_devices", "mesh_problems", "nearest_divisor"), "mesh_shape"),
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'moejax.config' has no attribute {name!r}")
    return getattr(importlib.import_module(f"moejax.config.{_HOME[name]}"), name)
