"""The networks around the layers, one file each, and a folder for the pre-trained one.

A model is called as `model(batch, train=…, key=…)` with a dict of arrays that share their leading axis, and returns
class logits [b, y] in float32 and the routing of each of its MoE layers. It says `tokens`, how many tokens an example
has in each of them, and `moe_layers`, the layers themselves in the order of the routings; one whose tokens lie on an
image also says `grid`, their rows and columns. Of itself it declares:

    options          what `model.…` may say of it
    reads            which array of a batch it reads, by which data sets fit
    experts          the experts that `moe.expert` may name; none if it has experts of its own
    moe_options      which of `expert` and `shared` have an effect
    config_problems  what a configuration with it must not say

A new model is a file here and a line of `MODELS`.
"""

from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from moejax.models import bert
from moejax.models.clusters import ClusterClassifier
from moejax.models.flat import FlatClassifier
from moejax.models.image import ImageClassifier
from moejax.models.lstm import LSTMClassifier
from moejax.models.pair import PairClassifier
from moejax.options import Options

__all__ = ["MODELS", "PRETRAINED", "build_model", "pretrained"]

# name → (config, number of classes, rngs) → model.
MODELS: dict[str, type[nnx.Module]] = {
    "image": ImageClassifier,
    "clusters": ClusterClassifier,
    "flat": FlatClassifier,
    "lstm": LSTMClassifier,
    "pair": PairClassifier,
    "encoder": bert.EncoderClassifier,
}
# name → what finds the weights that a model begins with, and what puts them into a fresh one.
PRETRAINED = {
    "encoder": (bert.pretrained, bert.fill),
}


def build_model(
    config: Options, num_classes: int, rngs: nnx.Rngs, weights: dict[str, Array] | None = None
) -> nnx.Module:
    """The model that `config.model.name` names, with the weights that `pretrained` found, if there are any."""
    model = MODELS[config.model.name](config, num_classes, rngs=rngs)
    if not weights:
        return model
    _, fill = PRETRAINED[config.model.name]
    return fill(model, weights, noise=config.model.upcycling_noise, rngs=rngs)


def pretrained(config: Options) -> dict[str, ndarray]:
    """The weights that the model begins with, by name, verified; none for a model that begins from nothing.

    Raises:
      UserError: they cannot be had, or are not those of this configuration.
    """
    if config.model.name not in PRETRAINED:
        return {}
    find, _ = PRETRAINED[config.model.name]
    return find(config)
