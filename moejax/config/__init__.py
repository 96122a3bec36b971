"""Configuration: the schema of a run, its text forms, and what makes no sense in it."""

from moejax.config.bounds import BOUNDS, abridged
from moejax.config.contradictions import contradictions, path_problem
from moejax.config.mesh_shape import data_devices, mesh_problems, nearest_divisor
from moejax.config.overlay import flatten, from_json, overlay, to_json
from moejax.config.schema import Config, DataConfig, ModelConfig, MoeConfig, ParallelConfig, TrainConfig

__all__ = [
    "BOUNDS",
    "Config",
    "DataConfig",
    "ModelConfig",
    "MoeConfig",
    "ParallelConfig",
    "TrainConfig",
    "abridged",
    "contradictions",
    "data_devices",
    "flatten",
    "from_json",
    "mesh_problems",
    "nearest_divisor",
    "overlay",
    "path_problem",
    "to_json",
]
