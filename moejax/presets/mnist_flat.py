"""MNIST with an image as one token: experts that are classifiers, unguided or guided by the labels."""

from moejax.config import Config, ModelConfig, MoeConfig, TrainConfig
from moejax.presets.preset import Preset


def _expert_per_label(name: str, moe: MoeConfig, **train: float) -> Config:
    """Ten experts 784-256-128-10 and a gate of the same shape."""
    return Config(
        name=name,
        model=ModelConfig(name="flat", second_hidden=128, activation="relu", normalize=True, dropout=0.3),
        moe=moe,
        train=TrainConfig(
            epochs=5,
            batch_size=256,
            learning_rate=1e-3,
            warmup=0.0,
            weight_decay=0.0,
            checkpoints="all",
            activations=True,
            **train,
        ),
    )


_GATED = {"layer": "dense", "num_experts": 10, "hidden": 256, "deep_gate": True, "learn_temperature": True}

PRESETS = {
    "mnist_base": Preset(
        _expert_per_label("mnist_base", MoeConfig(**_GATED, entropy_weight=0.1, usage_weight=0.1)),
        "MNIST",
        "?",
        "?",
    ),
    "mnist_guided": Preset(
        _expert_per_label(
            "mnist_guided",
            MoeConfig(**_GATED, guided=True, assignment_weight=0.3, entropy_weight=0.2, l2_weight=0.2),
            task_weight=0.3,
        ),
        "MNIST",
        "?",
        "?",
    ),
}
