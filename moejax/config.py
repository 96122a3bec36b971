"""The schema of a run: frozen dataclasses, filled from a preset, a `config.json` or typed overrides, and checked.

Every value has a dotted name (`train.epochs`) and one parser serves the command line and JSON alike. `overlay` and
`contradictions` return sentences instead of raising, so that a user sees all that is wrong at once.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moejax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which examples to learn from."""

    name: Literal["mnist", "fashion_mnist"] = "mnist"
    """The data set."""
    source: Literal["auto", "dir", "cache", "mirror", "wheel", "embedded", "tfds", "hf"] = "auto"
    """Where it comes from; auto takes the first that works, a named source never falls back."""
    dir: str | None = None
    """Folder that holds mnist/ or fashion_mnist/ (also: the variable MOEJAX_DATA_DIR)."""
    validation: int = 5000
    """Training images held back for validation, chosen by the seed; 0 trains on all."""


@dataclass(frozen=True)
class ModelConfig:
    """The backbone: a stem of two convolutions turns an image into tokens; blocks with an MoE layer; a linear head."""

    stem: int = 32
    """Channels of the stem's first convolution."""
    kernel: int = 6
    """Side of the stem's convolution kernels, in pixels."""
    stride: int = 3
    """Stride of the second convolution, after 2 of the first: 2 makes 7 × 7 tokens, 3 makes 5 × 5."""
    width: int = 48
    """Numbers per token (d)."""
    depth: int = 2
    """Blocks, each with one MoE layer."""
    neighbours: int = 0
    """Side of the convolution before each MoE layer, in tokens; 0 leaves it out."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a 28 × 28 image."""
        side = -(-14 // self.stride)
        return side, side

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class MoeConfig:
    """The Mixture-of-Experts layer of every block."""

    layer: Literal["dense", "sparse", "soft"] = "soft"
    """All experts on all tokens, the k best experts of each token, or mixtures of tokens in slots."""
    num_experts: int = 8
    """Experts per layer (E)."""
    hidden: int = 64
    """Hidden width of each expert's MLP (h)."""
    k: int = 2
    """Sparse: experts per token."""
    capacity_factor: float = 1.25
    """Sparse: room in the experts while training; 1 fits a perfectly balanced choice exactly."""
    eval_capacity_factor: float = 2.0
    """Sparse: room in the experts at evaluation."""
    group_size: int | None = None
    """Sparse: tokens that compete for slots together; None: the tokens of one example."""
    slots: int = 3
    """Soft: slots per expert."""
    scale: float = 1.0
    """Soft: where the learnt scale of the router's logits begins; 1 is the paper's, larger routes more sharply."""
    balance_weight: float = 1e-2
    """Sparse: weight of the load-balance loss."""
    z_weight: float = 1e-3
    """Sparse: weight of the router z-loss."""


@dataclass(frozen=True)
class TrainConfig:
    """How to learn: AdamW, linear warm-up, cosine decay to zero."""

    epochs: int = 5
    """Passes over the training examples."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Decoupled weight decay of all matrices."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    shift: float = 0.0
    """Augmentation: move each image by up to this many pixels, fresh every time."""
    rotate: float = 0.0
    """Augmentation: turn each image by up to this many degrees."""
    zoom: float = 0.0
    """Augmentation: scale each image by a factor within 1 ± this."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network; parameters, router and losses stay float32."""
    chunk: int = 50
    """Steps in one compiled scan, between two lines of progress (at most)."""


@dataclass(frozen=True)
class Config:
    """One run, complete: the same config on the same machine gives the same bits."""

    name: str = "custom"
    """What the run is called in its folder and report."""
    seed: int = 0
    """Fixes the validation split, the initial parameters, the order of examples and the augmentation."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    moe: MoeConfig = MoeConfig()
    train: TrainConfig = TrainConfig()


def flatten(config: Config) -> dict[str, Any]:
    """Values by dotted name, in the order of the schema."""
    return _flatten(dataclasses.asdict(config))


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def overlay(base: Config, values: Mapping[str, str], options: Sequence[str] = ()) -> tuple[Config, list[str]]:
    """Replace values of `base`, given as text by dotted name; returns what could be set, and a sentence per error.

    `options` are further names that a misspelt one may have meant.
    """
    kinds, problems, by_section = _kinds(Config), [], {}
    for name, text in values.items():
        if name not in kinds:
            problems.append(f"There is no field {name}{_did_you_mean(name, [*options, *kinds])}.")
            continue
        try:
            value = _parse(text, kinds[name])
        except ValueError:
            problems.append(f"{name} is {text!r}, which is not {_describe(kinds[name])}.")
        else:
            section, _, field = name.rpartition(".")
            by_section.setdefault(section, {})[field] = value
    top = by_section.pop("", {})
    sections = {s: dataclasses.replace(getattr(base, s), **fields) for s, fields in by_section.items()}
    return dataclasses.replace(base, **top, **sections), problems


def contradictions(config: Config) -> list[str]:
    """One sentence for each value that makes no sense, alone or beside the others."""
    m, moe, t = config.model, config.moe, config.train
    at_least_one = [
        *("model.stem", "model.kernel", "model.stride", "model.width", "model.depth"),
        *("moe.num_experts", "moe.hidden", "moe.k", "moe.slots"),
        *("train.epochs", "train.batch_size", "train.chunk"),
    ]
    above_zero = [
        *("moe.capacity_factor", "moe.eval_capacity_factor", "moe.scale"),
        *("train.learning_rate", "train.clip_norm"),
    ]
    not_negative = [
        *("data.validation", "model.neighbours", "moe.balance_weight", "moe.z_weight"),
        *("train.weight_decay", "train.shift", "train.rotate"),
    ]
    values = flatten(config)
    problems = [f"{n} is {values[n]}; it must be at least 1." for n in at_least_one if values[n] < 1]
    problems += [f"{n} is {values[n]}; it must be above 0." for n in above_zero if not values[n] > 0]
    problems += [f"{n} is {values[n]}; it must not be negative." for n in not_negative if not values[n] >= 0]
    problems += [
        f"{n} is {values[n]}; it must be at least 0 and below 1."
        for n in ("train.warmup", "train.label_smoothing", "train.zoom")
        if not 0 <= values[n] < 1
    ]
    if not 0 <= config.seed < 2**32:
        problems.append(f"seed is {config.seed}; it must be from 0 to {2**32 - 1}.")
    if moe.layer == "sparse" and moe.k > moe.num_experts > 0:
        problems.append(f"moe.k is {moe.k}, but there are only {moe.num_experts} experts (moe.num_experts).")
    if t.shift > 14:
        problems.append(f"train.shift is {t.shift:g}; beyond 14 pixels little is left of a 28 × 28 image.")
    if (
        moe.layer == "sparse"
        and moe.group_size is not None
        and (moe.group_size < 1 or t.batch_size * m.tokens % moe.group_size)
    ):
        tokens = t.batch_size * m.tokens
        problems.append(
            f"moe.group_size is {moe.group_size}, which does not divide the {tokens} tokens of a batch"
            f" (train.batch_size {t.batch_size} × {m.tokens}); the nearest that does is"
            f" {_nearest_divisor(tokens, moe.group_size)}."
        )
    return problems


def to_json(config: Config) -> str:
    """The text of a run's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, origin: str) -> tuple[Config, list[str]]:
    """Read a `config.json`; fields it does not name keep their defaults. `origin` names the file in errors."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{origin} is not valid JSON (line {error.lineno}: {error.msg}); mend it or use a preset."
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{origin} holds {type(tree).__name__}, not the object that a config.json is.")
    return overlay(Config(), {name: _text(value) for name, value in _flatten(tree).items()})


def _kinds(cls: type, prefix: str = "") -> dict[str, Any]:
    kinds = {}
    for name, kind in typing.get_type_hints(cls).items():
        kinds |= _kinds(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {f"{prefix}{name}": kind}
    return kinds


def _parse(text: str, kind: Any) -> Any:
    """Text to a value of that type; raises ValueError."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return None if text.lower() == "none" else _parse(text, next(k for k in kind.__args__ if k is not type(None)))
    if origin is Literal:
        if text not in kind.__args__:
            raise ValueError
        return text
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if value is not None else "none"


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join(_describe(k) for k in kind.__args__)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(kind.__args__)
    return {int: "a whole number", float: "a number", str: "text", type(None): "none"}[kind]


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    by_last = {n.rpartition(".")[2]: n for n in known}
    near = difflib.get_close_matches(name, known, n=1) or [
        by_last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)
    ]
    return f"; did you mean {near[0]}?" if near else "; --help lists all fields"


def _nearest_divisor(n: int, near: int) -> int:
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - near))
