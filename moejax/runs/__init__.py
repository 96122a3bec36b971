"""Runs to be used: a model is loaded from a run's folder and asked. No training loop, no optimiser, no plotting.

    model = moejax.runs.load("runs/mnist_soft-…")

`model` has `load`, `checkpoint` and `manifest` read what `moejax.training` wrote, `inputs` takes what a user has,
`routes` says what the layers did.
"""

from moejax.runs.model import Model, Prediction, load
from moejax.runs.routes import Route

__all__ = ["Model", "Prediction", "Route", "load"]
