"""The networks around the layers, one file each.

A model is called as `model(batch, train=…, key=…)` with a dict of arrays that share their leading axis, and returns
class logits [b, y] in float32 and the routing of each of its MoE layers. It says `tokens`, how many tokens an example
has in each of them, and `moe_layers`, the layers themselves in the order of the routings; one whose tokens lie on an
image also says `grid`, their rows and columns.
"""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from moejax.config import Config
from moejax.models.clusters import ClusterClassifier
from moejax.models.flat import FlatClassifier
from moejax.models.image import ImageClassifier
from moejax.models.lstm import LSTMClassifier
from moejax.models.pair import PairClassifier

__all__ = ["MODELS", "after_step", "build_model"]

# name → (config, number of classes, rngs) → model; `moejax.names.MODELS` says what each is.
MODELS: dict[str, Callable[..., nnx.Module]] = {
    "image": ImageClassifier,
    "clusters": ClusterClassifier,
    "flat": FlatClassifier,
    "lstm": LSTMClassifier,
    "pair": PairClassifier,
}


def build_model(config: Config, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """The model that `config.model.name` names."""
    return MODELS[config.model.name](config, num_classes, rngs=rngs)


def after_step(steps: int) -> Callable[[nnx.Module, Float[Array, "l e"], Int[Array, ""]], nnx.Module]:
    """`(model, load of each layer, step) → model`: what routers change by themselves after each of `steps` steps."""

    def update(model: nnx.Module, load: Float[Array, "l e"], step: Int[Array, ""]) -> nnx.Module:
        model = jax.tree.map(lambda leaf: leaf, model)  # a copy: the caller's model stays as it is
        for layer, share in zip(model.moe_layers, load, strict=True):
            layer.router.after_step(share, step / steps)
        return model

    return update
