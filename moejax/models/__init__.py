"""The networks around the layers, one file each, and a folder for the pre-trained one.

A model is called as `model(batch, train=…, key=…)` with a dict of arrays that share their leading axis. It returns
class logits [b, y] in float32 and the routing of each of its MoE layers, in the order in which
`moejax.router_updates.moe_layers` finds them. One for several tasks returns [b, tasks, y], one that foretells the next
token [b, t, y]. Its attributes are

    tokens           number of tokens of an example in each MoE layer
    grid             rows and columns of the tokens, where they lie on an image
    content          batch → [b, tokens, numbers]: what a token is made of, before anything learnt of its place; NaN for
                     padding. A run tells how far experts go by it; a model may leave it out

and those of its class

    options          its options, `model.…`
    reads            the array of a batch that it reads, which decides which data sets fit
    layer_options    those of its layers, `moe.…`, beside what these declare
    many_tasks       whether it answers several tasks, and so learns from labels [b, tasks]; if not said, it does not
    experts_return_tokens  False where experts return something else, such as logits
    config_problems  sentences on what is wrong in a configuration
    notes            sentences on what is to be known of one that works; a model may leave both out

A new model is a file here and a line of `MODELS`.
"""

from flax import nnx
from jaxtyping import Array
from numpy import ndarray

from moejax.models import bert
from moejax.models.clusters import ClusterClassifier
from moejax.models.decoder import Decoder
from moejax.models.flat import FlatClassifier
from moejax.models.image import ImageClassifier
from moejax.models.lstm import LSTMClassifier
from moejax.models.pair import PairClassifier
from moejax.models.tasks import TasksClassifier
from moejax.options import Options

__all__ = ["MODELS", "PRETRAINED", "build_model", "notes", "pretrained"]

# name → (config, number of classes or, of several tasks, of each, rngs) → model; what reads images takes their shape
# after the classes.
MODELS: dict[str, type[nnx.Module]] = {
    "image": ImageClassifier,
    "clusters": ClusterClassifier,
    "flat": FlatClassifier,
    "lstm": LSTMClassifier,
    "tasks": TasksClassifier,
    "pair": PairClassifier,
    "encoder": bert.EncoderClassifier,
    "decoder": Decoder,
}
# name → a function that finds the pre-trained weights, and one that fills a new model with them.
PRETRAINED = {
    "encoder": (bert.pretrained, bert.fill),
}


def build_model(
    config: Options,
    num_classes: int | tuple[int, ...],
    rngs: nnx.Rngs,
    weights: dict[str, Array] | None = None,
    *,
    image_shape: tuple[int, ...] | None = None,
) -> nnx.Module:
    """The model that `config.model.name` names, filled with the pre-trained `weights` if there are any.

    `image_shape`: rows, columns and, in colour, channels, for a model that reads images; None: MNIST's.
    """
    kind = MODELS[config.model.name]
    shape = (image_shape or (28, 28),) if kind.reads == "image" else ()
    model = kind(config, num_classes, *shape, rngs=rngs)
    if not weights:
        return model
    _, fill = PRETRAINED[config.model.name]
    return fill(model, weights, noise=config.model.upcycling_noise, rngs=rngs)


def notes(config: Options) -> tuple[str, ...]:
    """What is to be known of a configuration of a model."""
    return tuple(getattr(MODELS[config.model.name], "notes", lambda _: ())(config))


def pretrained(config: Options) -> dict[str, ndarray]:
    """The model's pre-trained weights, by name and verified; none for a model that has none.

    Raises:
      UserError: they cannot be found, or do not fit this configuration.
    """
    if config.model.name not in PRETRAINED:
        return {}
    find, _ = PRETRAINED[config.model.name]
    return find(config)
