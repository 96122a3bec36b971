"""Runs to be used: a model is loaded from a run's folder and asked. No training loop, no optimiser, no plotting.

    model = moejax.runs.load("runs/mnist_soft-…")

`opening` has `load`, `checkpoint` reads what `moejax.training` wrote. `model` is what is asked: `inputs`
takes what a user has, `routes` says what the layers did; `ask`, `answers` and `blocks` are the command line's.
`tensors` and `stablehlo` are the model as one file, `verify` tells whether a run's files are what was written.
"""

from moejax.runs.model import Model, Prediction
from moejax.runs.opening import load
from moejax.runs.routes import Route

__all__ = ["Model", "Prediction", "Route", "load"]
