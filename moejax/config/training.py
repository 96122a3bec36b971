"""What a run may be told of how it learns and how it spreads over devices: the sections `train` and `parallel`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from moejax.config import optax_by_name
from moejax.config.mesh_shape import nearest_divisor
from moejax.errors import abridged, did_you_mean
from moejax.options import Needs, NotNegative, Options, Positive, PositiveOrNone, Share

Count = Annotated[int, Field(ge=1, le=10**6)]
Pixels = Annotated[float, Field(ge=0, le=14)]  # beyond, little is left of a 28 × 28 image


OWN_OPTIMIZERS = ("adamw", "adam", "normalized")


def _optimizer(name: str) -> str:
    if name.startswith("optax."):
        optax_by_name.require(name)
    elif name not in OWN_OPTIMIZERS:
        near = did_you_mean(name.lower(), (*OWN_OPTIMIZERS, *optax_by_name.functions()))
        mean = f"; the nearest name is {near}" if near else ""
        raise ValueError(
            f"{abridged(repr(name))}; it must be one of {', '.join(OWN_OPTIMIZERS)}, or an optimiser of optax by its"
            f" name there, such as optax.lion{mean}"
        )
    return name


def _of_optax(optimizer: str) -> bool:
    return optimizer not in OWN_OPTIMIZERS


def _clips(optimizer: str) -> bool:
    return optimizer == "adamw" or _of_optax(optimizer)


def _decays(optimizer: str) -> bool:
    return optax_by_name.decays(optimizer) if _of_optax(optimizer) else optimizer != "normalized"


_WITH_ARGUMENTS = Needs("optimizer", _of_optax, "one of optax, such as optax.adamw", off="")
_CLIPPING = Needs("optimizer", _clips, "adamw or one of optax")
_DECAYING = Needs("optimizer", _decays, "adamw, adam or one of optax that takes a weight decay", off=0)


def _optimizer_arguments(text: str) -> str:
    optax_by_name.arguments(text)
    return text


def _of_some(prefix: str | None) -> str | None:
    if prefix == "":
        raise ValueError("'', with which every parameter's path begins; give it the beginning of some, or none")
    return prefix


AUGMENTATIONS = ("shift", "rotate", "zoom", "elastic", "crop", "blur")  # of images, each an option below


class TrainOptions(Options):
    """How to learn: an optimiser, linear warm-up, then a schedule."""

    epochs: Count = 5
    """Passes over the training examples."""
    batch_size: Count = 128
    """Examples per step."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches that each batch is taken in, one after the other, so that activations take less memory; each goes
    forward twice."""
    evaluation_batch: Count = 500
    """Examples evaluated at once."""
    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    """AdamW (adamw), Adam with L2 regularisation (adam), descent along each expert's gradient at length 1 (normalized),
    or any optimiser of optax by its name there, such as optax.lion or optax.contrib.muon."""
    optimizer_arguments: Annotated[str, AfterValidator(_optimizer_arguments), _WITH_ARGUMENTS] = ""
    """Arguments of an optimiser of optax, such as b1=0.95,b2=0.98; all others have its own defaults."""
    learning_rate: Annotated[float, Field(gt=0, le=1e38)] = 2e-3
    """Peak learning rate."""
    router_learning_rate: Annotated[float, Field(gt=0, le=1e38), Needs("optimizer", ("normalized",))] = 0.1
    """Peak learning rate of the routers and of all that is no expert."""
    stop_rise: PositiveOrNone = None
    """Learn no more once a batch's total loss, `task_weight` times the cross-entropy and what the MoE layers add, is
    this much above the least so far; none: always go on."""
    stop_below: PositiveOrNone = None
    """Learn no more once a batch's total loss is at most this without being the least so far; none: always go on."""
    evaluate_every: Count = 1
    """Epochs from one evaluation on the validation examples, and checkpoint, to the next."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate after the warm-up: it decays to zero along a half cosine, or stays."""
    warmup: Share = 0.1
    """Share of all steps in which the learning rate rises."""
    weight_decay: Annotated[NotNegative, _DECAYING] = 0.05
    """AdamW: decoupled decay of all matrices; Adam: times all parameters, added to the gradient; an optimiser of optax
    that takes a weight decay: its own kind of decay, of all matrices."""
    clip_norm: Annotated[PositiveOrNone, _CLIPPING] = 1.0
    """AdamW and optax: gradients are scaled down to this global norm; none leaves them as they are."""
    skip_nonfinite: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Steps in a row whose loss or gradient may be NaN or infinite: each changes nothing, and one more ends the run."""
    average: Share = 0.0
    """Evaluate an exponential moving average of the parameters, of this decay; 0: the last ones."""
    frozen: Annotated[str | None, AfterValidator(_of_some)] = None
    """Parameters whose path begins so keep their first values, such as encoder.embeddings; none: all learn."""
    task_weight: Positive = 1.0
    """Weight of the cross-entropy beside the losses of the MoE layers."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes."""
    consistency: NotNegative = 0.0
    """Weight of R-Drop: each example goes through the model twice, and both outputs should agree in spite of dropout
    and augmentation; a step takes twice as long."""
    shift: Pixels = 0.0
    """Images: move each by up to this many pixels, fresh every time."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Images: turn each by up to this many degrees."""
    zoom: Share = 0.0
    """Images: scale each by a factor within 1 ± this."""
    elastic: Pixels = 0.0
    """Images: bend each by a smooth random field of this deviation, in pixels (Simard et al. 2003)."""
    crop: Share = 0.0
    """Images: a random part of each, up to this share of its area left out, resized to the whole."""
    blur: Pixels = 0.0
    """Images: blur each by a 3 × 3 Gaussian whose deviation is drawn up to this many pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network; parameters, router and losses stay float32."""
    checkpoints: Literal["best", "all"] = "best"
    """Which to keep beside the latest: that of the best epoch, or of every epoch."""
    tested: Literal["last", "best"] = "last"
    """Which state sees the test examples: the last, or that of the best validation accuracy."""
    activations: bool = False
    """After each epoch, write each validation example's shares of the last layer's experts to activations/."""
    chunk: Annotated[int, Field(ge=1, le=10**5)] = 50
    """Steps in one compiled scan, between two lines of progress (at most)."""

    @property
    def micro_batch_size(self) -> int:
        """Examples that go through the model at once."""
        return self.batch_size // self.gradient_accumulation_steps

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        if o.batch_size % o.gradient_accumulation_steps:
            near = nearest_divisor(o.gradient_accumulation_steps, o.batch_size)
            yield (
                f"`gradient_accumulation_steps` is {o.gradient_accumulation_steps}, which does not divide `batch_size`,"
                f" {o.batch_size}; use {near}."
            )
        if _of_optax(o.optimizer):
            yield from optax_by_name.problems(o.optimizer, o.optimizer_arguments)


class ParallelOptions(Options):
    """How a run spreads over devices; no number of the result depends on it, to rounding; pmap draws other noise."""

    strategy: Literal["jit", "pmap"] = "jit"
    """One program over a mesh of devices, or the same program on each (data parallelism alone)."""
    data: Annotated[int | None, Field(ge=1, le=2**20)] = None
    """Devices along `data`, which share the examples of a batch; none: of the devices that `expert` leaves, as many as
    share a batch evenly."""
    expert: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Devices along `expert`, which share the experts, and the examples as well."""
    reads: Literal["auto", "all", "share"] = "auto"
    """All training examples onto every device at the start, or each process, chunk by chunk, only what its devices take
    of a batch. Auto: all for one process, shares for several."""
