"""A finished or interrupted run's model, to be asked: NumPy in, NumPy out.

    model = moejax.runs.load("runs/mnist_soft-…")
    prediction = model.predict(images)          uint8 [n, 28, 28] or [28, 28]
    prediction.classes, prediction.probabilities
    routes = model.route(images)                a value for each MoE layer
    model.generate("def ", samples=2)           of a language model, what follows the prompt

Answers do not depend on what else is in the batch, nor on how many examples it has, but for rounding: every example is
a group of its own, and sparse layers drop nothing (`opening.alone`). So they are those of the run's own evaluation
wherever that dropped nothing. Two kinds of router are the exception to one or the other:

  expert_choice                   experts choose among the tokens of one example, `eval_capacity_factor` of them, where
                                  the evaluation lets them choose among `group_size` tokens of the batch
  random, uniform + eval_noise    draw at evaluation, by an example's place in the batch

Of a language model each token is answered, by what it foretells after it, and asked for its experts.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from moejax.config import Config
from moejax.data.dataset import Examples, is_text, rows, take
from moejax.errors import UserError
from moejax.runs.about import About
from moejax.runs.generate import Writer
from moejax.runs.inputs import Reader
from moejax.runs.routes import AnyArray, Route, by_example
from moejax.runs.text import cut

LARGEST = 256  # examples that go through the network at once


class Prediction(NamedTuple):
    """Answers; of a model for several tasks one a task, of a language model one a token: the next one."""

    classes: Int[AnyArray, " n *tasks"]
    probabilities: Float[AnyArray, "n *tasks y"]


def known(probabilities: Float[AnyArray, "*n y"]) -> Float[AnyArray, "*n y"]:
    """The probabilities; UserError where they are no numbers, as of parameters that are none."""
    if not np.isfinite(probabilities).all():
        raise UserError("The model's answer is not finite, so that it says nothing; name another --checkpoint.")
    return probabilities


class Model:
    """What `load` returns.

    Attributes:
      config: the run's configuration.
      about: what its data are.
      module: the network, a Flax module; of a run that averages its parameters with these.
      step: the step of the checkpoint.
    """

    def __init__(self, config: Config, about: About, module: nnx.Module, step: int):
        self.config, self.about, self.module, self.step = config, about, module, step
        self.read = Reader(config, about)

    def predict(self, x: Any) -> Prediction:
        """The most probable class of each example and the probabilities of all.

        Args:
          x: one example or a batch: uint8 images [n, rows, columns], sentence pairs (a, b) as strings, points; or a
            mapping of the arrays that the model reads, by name, as its data set has them. Texts are strings or tokens
            [n, t] of any length; behind the end of one that is shorter than others, classes are -1, probabilities NaN.

        Raises UserError, in one sentence, for anything else and for an empty batch.
        """
        return self._asked(x, lambda found: found[0])

    def route(self, x: Any) -> tuple[Route, ...]:
        """What each MoE layer did with each example; `x` and errors as of `predict`.

        Of a layer with a gate for each task, each gate's. Of an encoder an example's tokens are those of both orders of
        its sentences.
        """
        return self._asked(x, lambda found: found[1])

    def answer(self, x: Any) -> tuple[Prediction, tuple[Route, ...]]:
        """What `predict` and `route` say, in one pass."""
        return self._asked(x, lambda found: found)

    def generate(self, prompt: Any = "", *, samples: int = 1, **options: Any) -> list[str]:
        """What each sample goes on with, without the prompt.

        Args:
          prompt, options: `tokens`, `temperature`, `top_p` and `seed`, as of `moejax.runs.generate.Writer.write`.

        Raises UserError, in one sentence, for values that make no sense and for a model that writes no text.
        """
        return self.writer.texts(prompt, samples=samples, **options)

    @cached_property
    def writer(self) -> Writer:
        """What writes text, token by token; UserError for a model that cannot."""
        return Writer(self.config, self.about, self.module)

    def _asked(self, x: Any, wanted: Callable[[tuple], Any]) -> Any:
        """What is wanted of the answer, for all examples of `x`; nothing else leaves the device."""
        batch = self.read(x)
        parts = [jax.device_get(wanted(_answer(self.module, part))) for part in _padded(batch)]
        found = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: rows(batch)], *parts)
        return cut(found, batch["length"]) if is_text(batch) else found


def _padded(batch: Examples) -> Iterator[Examples]:
    """The batch in parts of powers of two, the last one filled up: a compilation for each size, not each batch."""
    for start in range(0, rows(batch), LARGEST):
        part = take(batch, slice(start, start + LARGEST))
        size = 1 << (rows(part) - 1).bit_length()
        yield take(part, np.minimum(np.arange(size), rows(part) - 1))


@jax.jit
def _answer(module: nnx.Module, batch: dict[str, Array]) -> tuple[Prediction, tuple[Route, ...]]:
    logits, routings = module(batch, train=False)
    prediction = Prediction(logits.argmax(-1).astype(jnp.int32), jax.nn.softmax(logits))
    tokens = batch["tokens"].shape[1] if is_text(batch) else module.tokens
    return prediction, tuple(by_example(r, len(logits), tokens) for r in routings)
