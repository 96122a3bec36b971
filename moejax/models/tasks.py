"""Several tasks on one image: experts that all tasks share, and a tower for each task.

    image ─ its numbers ─ MoE of perceptrons ─ `width` numbers a task ─ the task's tower ─ its logits

All that a task gets of an image is `width` numbers. Where these are few, tasks that ask for different things conflict:

    moe.layer dense, 1 expert   shared bottom (Caruana 1997): one network, the same numbers for all tasks
    dense, sparse or soft       one gate: numbers that depend on the image, but not on the task
    multi_gate                  a gate for each task: numbers of its own (MMoE, Ma et al. 2018)
    … with own_expert           a network for each task: nothing is shared

Axis letters: b images, y classes of the task that has most.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key
from pydantic import Field

from moejax.data.image_tasks import TASKS
from moejax.models.flat import Perceptron
from moejax.models.layer import LayerOptions, layer_maker
from moejax.models.pixels import standardized
from moejax.multi_gate import MultiGateMoE
from moejax.options import Options
from moejax.routing import DenseRouting, Routing

_NEVER = -1e9  # the logit of a class that a task does not have


class TasksOptions(Options):
    """What a task gets, and its tower."""

    width: Annotated[int, Field(ge=1, le=2**14)] = 4
    """Numbers that an expert, and so the whole layer, makes of an image for a task."""
    tower: Annotated[int, Field(ge=1, le=2**14)] = 16
    """Hidden width of each task's tower."""
    own_expert: bool = False
    """Multi_gate: each task has the expert of its number to itself, which makes it a network of its own."""


class OwnExpert(nnx.Module):
    """In place of a gate that is learnt: all of the weight on one expert."""

    def __init__(self, expert: int, num_experts: int):
        self.expert, self.num_experts = expert, num_experts

    def __call__(self, x: Float[Array, "g t d"], mask: Bool[Array, "g t"] | None = None) -> DenseRouting:
        weights = jnp.zeros((*x.shape[:2], self.num_experts)).at[..., self.expert].set(1.0)
        return DenseRouting(jnp.log(weights), weights, mask)

    def after_step(self, load: Float[Array, " e"], progress: Float[Array, ""]) -> None:
        """Nothing: it stays."""


class TasksClassifier(nnx.Module):
    """An image is one token; its experts' output goes to a tower for each task, whose logits answer that task."""

    options, reads, many_tasks = TasksOptions, "image", True
    layer_options = LayerOptions
    experts_return_tokens = False
    tokens = 1

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        if config.train.label_smoothing:
            yield (
                f"train.label_smoothing is {config.train.label_smoothing:g}, but of the tasks of model.name tasks some"
                " have fewer classes than others, over which no target can be spread; set it to 0."
            )
        if config.model.own_expert and config.moe.layer != "multi_gate":
            yield f"model.own_expert is true, but moe.layer is {config.moe.layer}; it is for multi_gate."
        tasks = config.data.tasks.split(",") if hasattr(config.data, "tasks") else []
        if config.model.own_expert and tasks and len(tasks) != config.moe.num_experts:
            yield (
                f"model.own_expert is true, but there are {len(tasks)} tasks (data.tasks) for {config.moe.num_experts}"
                f" experts; set moe.num_experts to {len(tasks)}."
            )
        for name in tasks:
            for way, most in TASKS[name].changed_by.items():
                if (value := getattr(config.train, way)) > most:
                    fix = f"at most {most:g}" if most else "0"
                    yield f"train.{way} is {value:g}, which changes the answer to {name} (data.tasks); set it to {fix}."

    def __init__(
        self, config: Options, num_classes: int | tuple[int, ...], image_shape: tuple[int, ...], *, rngs: nnx.Rngs
    ):
        m, moe, dtype = config.model, config.moe, jnp.dtype(config.train.dtype)
        pixels = math.prod(image_shape)
        self.num_classes = (num_classes,) if isinstance(num_classes, int) else num_classes

        def perceptron(*widths: int, rngs: nnx.Rngs) -> Perceptron:
            return Perceptron(widths, dtype=dtype, rngs=rngs)

        def make_expert(rngs: nnx.Rngs) -> Perceptron:
            return perceptron(pixels, moe.hidden, m.width, rngs=rngs)

        self.moe = layer_maker(moe, pixels, dtype, make_expert, num_tasks=len(self.num_classes))(rngs)
        if m.own_expert:
            self.moe.routers = nnx.List([OwnExpert(e, moe.num_experts) for e in range(moe.num_experts)])
        self.towers = nnx.List([perceptron(m.width, m.tower, y, rngs=rngs) for y in self.num_classes])

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b tasks y"], tuple[Routing, ...]]:
        """`batch["image"]`: [b, *image_shape], values 0 to 255; `key`: for routers with noise. The logits are float32.

        The routings are one for each gate. Where a task has fewer than y classes, the logits of the others are such
        that their probability is 0.
        """
        x = standardized(batch["image"])
        y, routing = self.moe(x.reshape(x.shape[0], 1, -1), train=train, key=key)
        several = isinstance(self.moe, MultiGateMoE)
        of_tasks, routings = (y, routing) if several else ([y] * len(self.towers), (routing,))
        answers = [tower(x[:, 0]).astype(jnp.float32) for tower, x in zip(self.towers, of_tasks, strict=True)]
        most = max(self.num_classes)
        padded = [jnp.pad(a, ((0, 0), (0, most - a.shape[1])), constant_values=_NEVER) for a in answers]
        return jnp.stack(padded, axis=1), routings
