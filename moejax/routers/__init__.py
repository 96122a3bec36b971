"""Routers, one small file a method, as the pure functions that they are made of (`moejax.routing`).

A new one is a subclass of `Router` in a file of its own and a line of `ROUTERS`.
"""

from moejax.routers.dense import DenseRouter
from moejax.routers.expert_choice import ExpertChoice
from moejax.routers.noise import NoisyTopK, UniformTopK, VmoeTopK
from moejax.routers.relu import ReLU
from moejax.routers.router import Context, Router, RouterState
from moejax.routers.sigmoid import SigmoidTopK
from moejax.routers.sinkhorn import SinkhornTopK
from moejax.routers.soft import SoftRouter
from moejax.routers.top_k import SoftmaxTopK, Switch, TopKSoftmax
from moejax.routers.unlearnt import Hash, Random

__all__ = ["ROUTERS", "Context", "DenseRouter", "Router", "RouterState", "SoftRouter"]

ROUTERS: dict[str, type[Router]] = {
    "softmax_top_k": SoftmaxTopK,
    "top_k_softmax": TopKSoftmax,
    "switch": Switch,
    "noisy_top_k": NoisyTopK,
    "vmoe": VmoeTopK,
    "uniform": UniformTopK,
    "sigmoid": SigmoidTopK,
    "sinkhorn": SinkhornTopK,
    "expert_choice": ExpertChoice,
    "relu": ReLU,
    "hash": Hash,
    "random": Random,
}
