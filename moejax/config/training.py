"""What a run may be told of how it learns and how it spreads over devices: the sections `train` and `parallel`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from moejax.options import Needs, NotNegative, Options, Positive, PositiveOrNone, Share

Count = Annotated[int, Field(ge=1, le=10**6)]
Pixels = Annotated[float, Field(ge=0, le=14)]  # beyond, little is left of a 28 × 28 image


def _of_some(prefix: str | None) -> str | None:
    if prefix == "":
        raise ValueError("'', with which every parameter's path begins; give it the beginning of some, or none")
    return prefix


class TrainOptions(Options):
    """How to learn: an optimiser, linear warm-up, then a schedule."""

    epochs: Annotated[Count, Field(description="Passes over the training examples.")] = 5
    batch_size: Annotated[Count, Field(description="Examples per step.")] = 128
    evaluation_batch: Annotated[Count, Field(description="Examples evaluated at once.")] = 500
    optimizer: Annotated[
        Literal["adamw", "adam", "normalized"],
        Field(description="AdamW, Adam with L2 regularisation, or descent along each expert's gradient at length 1."),
    ] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1e38, description="Peak learning rate.")] = 2e-3
    router_learning_rate: Annotated[
        float,
        Field(gt=0, le=1e38, description="Peak learning rate of the routers and of all that is no expert."),
        Needs("optimizer", ("normalized",)),
    ] = 0.1
    stop_rise: Annotated[
        PositiveOrNone,
        Field(description="Learn no more once a batch's loss is this much above the least so far; none: always go on."),
    ] = None
    stop_below: Annotated[
        PositiveOrNone,
        Field(
            description="Learn no more once a batch's loss is at most this without being the least so far; none: always"
            " go on."
        ),
    ] = None
    evaluate_every: Annotated[
        Count,
        Field(description="Epochs from one evaluation on the validation examples, and checkpoint, to the next."),
    ] = 1
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="The learning rate after the warm-up: it decays to zero along a half cosine, or stays."),
    ] = "cosine"
    warmup: Annotated[Share, Field(description="Share of all steps in which the learning rate rises.")] = 0.1
    weight_decay: Annotated[
        NotNegative,
        Field(description="AdamW: decoupled decay of all matrices; Adam: times all parameters, added to the gradient."),
    ] = 0.05
    clip_norm: Annotated[
        PositiveOrNone,
        Field(description="AdamW: gradients are scaled down to this global norm; none leaves them as they are."),
    ] = 1.0
    average: Annotated[
        Share,
        Field(description="Evaluate an exponential moving average of the parameters, of this decay; 0: the last ones."),
    ] = 0.0
    frozen: Annotated[
        str | None,
        AfterValidator(_of_some),
        Field(
            description="Parameters whose path begins so keep their first values, such as encoder.embeddings; none: all"
            " learn."
        ),
    ] = None
    task_weight: Annotated[
        Positive, Field(description="Weight of the cross-entropy beside the losses of the MoE layers.")
    ] = 1.0
    label_smoothing: Annotated[Share, Field(description="Share of the target spread over all classes.")] = 0.0
    consistency: Annotated[
        NotNegative,
        Field(
            description="Weight of R-Drop: each example goes through the model twice, and both outputs should agree in"
            " spite of dropout and augmentation; a step takes twice as long."
        ),
    ] = 0.0
    shift: Annotated[Pixels, Field(description="Images: move each by up to this many pixels, fresh every time.")] = 0.0
    rotate: Annotated[float, Field(ge=0, le=180, description="Images: turn each by up to this many degrees.")] = 0.0
    zoom: Annotated[Share, Field(description="Images: scale each by a factor within 1 ± this.")] = 0.0
    elastic: Annotated[
        Pixels,
        Field(
            description="Images: bend each by a smooth random field of this deviation, in pixels (Simard et al. 2003)."
        ),
    ] = 0.0
    crop: Annotated[
        Share,
        Field(
            description="Images: a random part of each, up to this share of its area left out, resized to the whole."
        ),
    ] = 0.0
    blur: Annotated[
        Pixels,
        Field(description="Images: blur each by a 3 × 3 Gaussian whose deviation is drawn up to this many pixels."),
    ] = 0.0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Compute type of the network; parameters, router and losses stay float32."),
    ] = "float32"
    checkpoints: Annotated[
        Literal["best", "all"],
        Field(description="Which to keep beside the latest: that of the best epoch, or of every epoch."),
    ] = "best"
    tested: Annotated[
        Literal["last", "best"],
        Field(description="Which state sees the test examples: the last, or that of the best validation accuracy."),
    ] = "last"
    activations: Annotated[
        bool,
        Field(
            description="After each epoch, write each validation example's shares of the last layer's experts to"
            " activations/."
        ),
    ] = False
    chunk: Annotated[
        int, Field(ge=1, le=10**5, description="Steps in one compiled scan, between two lines of progress (at most).")
    ] = 50


class ParallelOptions(Options):
    """How a run spreads over devices; no number of the result depends on it, to rounding."""

    strategy: Annotated[
        Literal["jit", "pmap"],
        Field(description="One program over a mesh of devices, or the same program on each (data parallelism alone)."),
    ] = "jit"
    data: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**20,
            description="Devices along `data`, which share the examples of a batch; none: of the devices that `expert`"
            " leaves, as many as share a batch evenly.",
        ),
    ] = None
    expert: Annotated[
        int,
        Field(
            ge=1,
            le=2**20,
            description="Devices along `expert`, which share the experts, and the examples as well.",
        ),
    ] = 1
    reads: Annotated[
        Literal["auto", "all", "share"],
        Field(
            description="All training examples onto every device at the start, or each process, chunk by chunk, only"
            " what its devices take of a batch. Auto: all for one process, shares for several."
        ),
    ] = "auto"
