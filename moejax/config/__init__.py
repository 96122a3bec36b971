"""Configuration: a run's options, each declared with what it configures, put together by name.

    config = make_config(name="mine", moe={"layer": "soft", "slots": 2}, train={"epochs": 1})
    config.replace(moe={"layer": "sparse"})

`schema` finds the options that there are for the names chosen, `config` makes values of them, `text` reads and writes
`config.json`, `suggest` tells what a wrong name may have meant. All that has options is imported, and so JAX.
"""

from moejax.config.config import Config, configured, make_config, wrong_words
from moejax.config.mesh_shape import data_devices, mesh_problems, nearest_divisor
from moejax.config.text import chosen, flatten, from_json, to_json

__all__ = [
    "Config",
    "chosen",
    "configured",
    "data_devices",
    "flatten",
    "from_json",
    "make_config",
    "mesh_problems",
    "nearest_divisor",
    "to_json",
    "wrong_words",
]
