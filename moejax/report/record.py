"""A run folder as one value, from which the whole report is made.

A run may have been interrupted at any moment, so every file but `config.json` may be missing or cut short. What could
not be read, or is not what was written (`moejax.manifest`), is left out, with a sentence in `remarks`.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moejax import manifest, metrics_log, predictions
from moejax.errors import UserError
from moejax.pieces import pieces
from moejax.predictions import Predictions

_MOST_TOKENS = 2000  # of a held-out text that a report shows
ABSENT = "–"  # what a run does not have
# The arrays of `routing.npz` and their axes. Axes of one name have one size; n counts records, s sample images.
AXES = {
    "step": "n",
    "load": "n layer expert",  # share of the routed work, sums to 1 over experts
    "gate_entropy": "n layer",  # nats
    "dropped": "n layer",  # share of the choices, of expert choice of the tokens
    "label_expert": "layer label expert",  # routed weight of the test tokens of each true label
    "position_expert": "layer token expert",  # the same of each position, and of each content, by cluster
    "content_expert": "layer content expert",
    "experts_by_position": "layer",  # share of the routing that a token's position tells, 0 to 1
    "experts_by_content": "layer",
    "experts_by_label": "layer",
    "confusion": "label label",  # true, predicted
    "sample_image": "s row column channel",  # uint8; in the file grey ones have no channel
    "sample_label": "s",
    "sample_prediction": "s",
    "sample_gate": "s layer token expert",  # the weight of each expert in a token's output
    "sample_logits": "s layer token logit",  # one for each expert, or for each slot of all experts
    "sample_computed": "s layer token",  # experts that computed something; where tokens may differ in that
    "sample_dispatch": "s layer token expert slot",  # soft only: sums to 1 over tokens
    "sample_tokens": "s token",  # of text: windows of it that follow each other
    "sample_nats": "s token",  # what each of them cost; NaN for the first of a window
    "film": "f v layer token",  # the expert with most weight in the first sample images or windows, -1 for none
    "film_step": "f",
    "token_grid": "2",
    "top_image": "layer expert m row column channel",  # uint8: test images with most weight on the expert
    "top_share": "layer expert m",
}


@dataclass(frozen=True)
class Record:
    """One run. `train` and `validation` are columns (`step`, `loss`, …) of float64 [n], NaN where not measured."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    summary: dict[str, Any]
    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    test: dict[str, Any]
    routing: dict[str, np.ndarray]
    remarks: tuple[str, ...]
    tokenizer: str | None = None  # the text of a tokenizer.json
    predictions: Predictions | None = None  # its answers to the test examples

    @property
    def is_text(self) -> bool:
        """Whether the run foretells the next token of a text."""
        model = self.config.get("model")
        return isinstance(model, dict) and model.get("name") == "decoder"

    @property
    def in_bytes(self) -> bool:
        """Of text, whether each byte of it is a token."""
        return self.tokenizer is None and self.data.get("num_classes", 256) == 256

    @cached_property
    def pieces(self) -> list[bytes]:
        """Of text, what each token stands for; empty if that is not known."""
        try:
            return pieces(self.tokenizer) if self.tokenizer or self.in_bytes else []
        except (ValueError, KeyError, TypeError, AttributeError):  # of a file that is no tokenizer
            return []

    @property
    def is_images(self) -> bool:
        """Whether its examples are images, as far as the run says."""
        shapes = self.data.get("shapes")
        return "image" in shapes if isinstance(shapes, dict) else not self.is_text

    def respect_name(self, respect: str) -> str:
        """What `position`, `content` or `label` of a token is."""
        return {"content": "token", "label": "next token"}.get(respect, respect) if self.is_text else respect

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.folder.name))

    @property
    def layer(self) -> str:
        """The kind of MoE layer, `soft`, `sparse` or `dense`; empty if the configuration does not say."""
        return str(self.option("moe", "layer") or "")

    def option(self, section: str, name: str) -> Any:
        """An option as the run was configured; None if the configuration does not say."""
        options = self.config.get(section)
        return options.get(name) if isinstance(options, dict) else None

    @property
    def droppable(self) -> str:
        """What `dropped` is a share of."""
        return "tokens" if self.option("moe", "router") == "expert_choice" else "choices"

    @property
    def experts(self) -> int | None:
        """Experts of a layer: counted in the arrays, else as configured."""
        for key in ("load", "label_expert", "sample_gate"):
            if key in self.routing:
                return self.routing[key].shape[-1]
        count = self.option("moe", "num_experts")
        return count if isinstance(count, int) and count > 0 else None

    @property
    def of_tasks(self) -> dict[str, float]:
        """The test accuracy of each task by name, in 0..1; empty for a run of one task."""
        found = self.summary.get("test_accuracy_of")
        return {str(task): number(value) for task, value in found.items()} if isinstance(found, dict) else {}

    def layer_name(self, layer: int | np.integer) -> str:
        """`Layer 0`; of a layer with a gate for each task, whose routings count as layers, `Gate of digit`."""
        tasks = list(self.of_tasks)
        return f"Gate of {tasks[layer]}" if self.layer == "multi_gate" and layer < len(tasks) else f"Layer {layer}"

    def label_name(self, label: int | np.integer) -> str:
        """The name of a class, its beginning if it is long; its number where it has none."""
        names = self.data.get("classes")
        name = str(names[label]) if isinstance(names, list) and label < len(names) else str(label)
        return name if len(name) <= 12 else f"{name[:11]}…"

    @property
    def computing(self) -> int:
        """How many experts compute something: the first ones."""
        return self._computing_and_idle[0]

    @property
    def idle(self) -> str:
        """Which experts compute nothing, the last ones, by the configuration: `no computation: 4 zero, 5–6 copy`."""
        return self._computing_and_idle[1]

    @property
    def _computing_and_idle(self) -> tuple[int, str]:
        found, first = [], self.experts or 0
        for kind in ("null", "constant", "copy", "zero"):  # from the last one on
            count = self.option("moe", f"{kind}_experts")
            if isinstance(count, int) and 0 < count < first:
                first -= count
                found.append(f"{first}–{first + count - 1} {kind}" if count > 1 else f"{first} {kind}")
        return first, f"no computation: {', '.join(reversed(found))}" if found else ""

    def tested(self, quantity: str) -> float:
        """`accuracy` (0..1) or `loss` on the test data; NaN if the run has not been tested."""
        return number(self.summary.get(f"test_{quantity}", self.test.get(quantity)))

    def has(self, key: str) -> bool:
        """Whether there is anything to draw under `key`: an array of `AXES`, or `metrics` for the curves."""
        return bool(self.train or self.validation) if key == "metrics" else key in self.routing


def read(folder: Path) -> Record:
    """Read a finished or interrupted run.

    Raises:
        UserError: `folder` is no run folder: it has no `config.json`, or none that is what was written.
    """
    remarks: list[str] = []
    config = _read_config(folder)
    if (folder / manifest.NAME).exists() and manifest.read(folder) is None:
        remarks.append(
            f"{manifest.NAME} cannot be read, so nothing tells whether the other files are what was written."
        )
    lines = _read_lines(folder / metrics_log.NAME, remarks)
    broken: list[str] = []
    summary = _read_object(folder / "summary.json", broken)
    remarks += broken
    if not summary and not broken:
        last = max((line["step"] for line in lines), default=0)
        remarks.append(f"This run has no summary: it was interrupted or is still going. Last step recorded: {last:,}.")
    return Record(
        folder=folder.resolve(),
        config=config,
        environment=_read_object(folder / "env.json", remarks),
        data=_read_object(folder / "data.json", remarks),
        summary=summary,
        train=_columns(lines, "train"),
        validation=_columns(lines, "validation"),
        test=lines[-1] if lines and lines[-1]["kind"] == "test" else {},  # an earlier one is of a run of fewer epochs
        routing=_read_routing(folder / "routing.npz", remarks),
        tokenizer=_read_tokenizer(folder, remarks),
        predictions=_read_predictions(folder / predictions.NAME, remarks),
        remarks=tuple(remarks),  # last: what is above adds to them
    )


def _read_tokenizer(folder: Path, remarks: list[str]) -> str | None:
    """That of any checkpoint: they are all the same."""
    problems: list[str] = []
    for file in sorted(folder.glob("checkpoints/*/tokenizer.json")):
        found = _content(file, problems)
        try:
            if found is not None:
                return found.decode("utf-8")
        except ValueError:
            continue
    remarks += problems[:1]
    return None


def _content(path: Path, remarks: list[str]) -> bytes | None:
    """What is in a file; None if it is missing, and with a remark if it is damaged."""
    found, problem = manifest.content(path)
    if problem:
        remarks.append(f"{path.name} {problem}; it is left out.")
    return found


def _read_predictions(path: Path, remarks: list[str]) -> Predictions | None:
    if (content := _content(path, remarks)) is None:
        return None
    found = predictions.unpack(content)
    if found is None:
        remarks.append(f"{path.name} cannot be read; it is left out.")
    return found


def shares(table: np.ndarray) -> np.ndarray:
    """float [..., n] → the same: each entry's share of its row; 0 in a row of zeros."""
    table = np.nan_to_num(table)
    return table / np.maximum(table.sum(-1, keepdims=True), 1e-12)


def text_shown(windows: np.ndarray) -> np.ndarray:
    """Of a held-out text [window, token] what a report has room for: whole windows, or the beginning of one."""
    length = windows.shape[1]
    return windows[: max(1, _MOST_TOKENS // length), :_MOST_TOKENS]


def number(value: object) -> float:
    """A measured value as a float; NaN for anything that is not a number."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number beyond all floats, in a file that is damaged
        return math.nan


def flat(tree: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of nested mappings as (`moe.num_experts`, `8`), in their order."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The options whose values are not all the same, by dotted name; a dash where a configuration has none."""
    values = [dict(flat(config)) for config in configs]
    names = dict.fromkeys(name for of_one in values for name in of_one)
    rows = {name: [of_one.get(name, ABSENT) for of_one in values] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.json; give a folder that moejax.run wrote.")
    config, problem = manifest.object_in(path)
    if problem:
        raise UserError(f"{path} {problem}; restore it, or run again to get a whole run folder.")
    return config


def _read_object(path: Path, remarks: list[str]) -> dict[str, Any]:
    found, problem = manifest.object_in(path)
    if problem:
        remarks.append(f"{path.name} {problem}; it is left out.")
    return found


def _read_lines(path: Path, remarks: list[str]) -> list[dict[str, Any]]:
    """The records; a last line that a crash cut short is left out without a remark."""
    if (content := _content(path, remarks)) is None:
        return []
    lines, broken = metrics_log.records(content, path, numbers=())
    if broken:
        remarks.append(f"{len(broken)} unreadable line(s) of {path.name} were left out.")
    return lines


def _columns(lines: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """Columns in order of step; of two lines of one step the later one counts."""
    by_step = {line["step"]: line for line in lines if line["kind"] == kind}
    rows = [by_step[step] for step in sorted(by_step)]
    names = ("step", "epoch", "loss", "accuracy", "examples_per_second", "learning_rate", "auxiliary")
    return {name: np.array([number(row.get(name)) for row in rows]) for name in names} if rows else {}


def _read_routing(path: Path, remarks: list[str]) -> dict[str, np.ndarray]:
    """The arrays of `AXES` that are there, are not empty and agree on their axes."""
    if (content := _content(path, remarks)) is None:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in AXES if key in arrays}
    except Exception:  # a damaged archive raises what its damage leads to: of zip, zlib, NumPy's headers, memory
        remarks.append(f"{path.name} cannot be read; the pictures of the routing are left out.")
        return {}

    routing: dict[str, np.ndarray] = {}
    sizes = {"2": 2}
    for key, array in found.items():
        axes = AXES[key].split()
        if axes[-1] == "channel" and array.ndim == len(axes) - 1:
            array = array[..., None]
        shape = dict(zip(axes, array.shape, strict=False))
        fits = array.ndim == len(axes) and all(sizes.get(axis, size) == size for axis, size in shape.items())
        fits = fits and shape.get("channel", 1) in (1, 3)
        if fits and array.size:
            routing[key] = array
            sizes |= shape
        elif array.size:
            remarks.append(f"{key} in {path.name} has shape {array.shape}, not ({AXES[key]}); it was left out.")
    if "token_grid" in routing and int(routing["token_grid"].prod()) != sizes.get("token", 0):
        del routing["token_grid"]
    return routing
