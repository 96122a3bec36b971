"""A text run's folder, made up: experts that go by the token's class, a tokenizer of a few byte pairs."""

import json
from pathlib import Path

import numpy as np
from synthetic import film

from moejax.pieces import letters_of_bytes

TEXT = b"\0def f(x):\n\treturn '\xc3\xa9' + x  # <b>\n" * 12
PAIRS = [b"<end>", *(bytes([byte]) for byte in range(1, 256)), b"def", b"\n\t"]


def tokenizer() -> str:
    """The text of a tokenizer.json of `PAIRS`."""
    letters = letters_of_bytes()
    vocabulary = {"".join(letters[byte] for byte in piece): token for token, piece in enumerate(PAIRS)}
    return json.dumps({"model": {"vocab": vocabulary}})


def routing(*, layers: int, experts: int, length: int = 32) -> dict[str, np.ndarray]:
    """The arrays of `routing.npz`: expert token % E has most of a token, and the next one the rest."""
    tokens = np.frombuffer(TEXT, np.uint8)
    tokens = tokens[: len(tokens) // length * length].reshape(-1, length)
    first = (tokens[:, None] + np.arange(layers)[:, None]) % experts  # s, layer, token
    gate = 0.7 * np.eye(experts)[first] + 0.3 * np.eye(experts)[(first + 1) % experts]
    of = {"content": tokens, "label": np.roll(tokens, -1).reshape(tokens.shape)}
    tables = {
        f"{name}_expert": np.einsum("stv,slte->lve", np.eye(256)[kind], gate).astype(np.float32)
        for name, kind in of.items()
    }
    nats = np.linspace(0, 8, tokens.size, dtype=np.float32).reshape(tokens.shape)
    nats[:, 0] = np.nan
    return tables | {
        "step": np.array([50, 100]),
        "load": np.full((2, layers, experts), 1 / experts, np.float32),
        "gate_entropy": np.full((2, layers), 0.6, np.float32),
        "dropped": np.zeros((2, layers), np.float32),
        "experts_by_content": np.linspace(0.9, 0.5, layers),
        "experts_by_label": np.linspace(0.2, 0.3, layers),
        "experts_by_position": np.full(layers, 0.01),
        "sample_tokens": tokens,
        "sample_nats": nats,
        "sample_gate": gate.astype(np.float32),
        "film": film(gate[:2], np.random.default_rng(2)),
        "film_step": np.array([10, 20, 40, 80, 100]),
        "sample_logits": np.log(gate + 0.05).astype(np.float32),
    }


def write_text_run(folder: Path, *, layers: int = 2, experts: int = 4, pairs: bool = False) -> Path:
    """Write the folder of a text run; `pairs`: tokens of byte pairs."""
    folder.mkdir(parents=True)
    config = {
        "name": "text_sparse",
        "seed": 0,
        "data": {"name": "python", "length": 32},
        "model": {"name": "decoder", "depth": layers},
        "moe": {"layer": "sparse", "num_experts": experts, "k": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps({"name": "python", "num_classes": len(PAIRS) if pairs else 256}))
    if pairs:
        (folder / "checkpoints" / "100").mkdir(parents=True)
        (folder / "checkpoints" / "100" / "tokenizer.json").write_text(tokenizer())
    line = {"epoch": 1.0, "seconds": 1.0, "accuracy": 0.5}
    lines = [
        {"kind": "train", "step": 50, "loss": 3.0, **line},
        {"kind": "train", "step": 100, "loss": 2.0, **line},
        {"kind": "validation", "step": 100, "loss": 2.1, **line},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    arrays = routing(layers=layers, experts=experts)
    np.savez(folder / "routing.npz", **arrays)
    summary = {
        "test_accuracy": 0.5125,
        "test_loss": 1.5,
        "test_bits_per_byte": 2.164,
        "majority": 0.18,
        "gate_entropy": [0.4, 0.6],
        "max_violation": 0.5,
        "dead_experts": 0,
        "dropped": 0.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
