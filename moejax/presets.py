"""The named runs. Each states its data, its time on two CPU cores and the test accuracy to expect.

`mnist_dense`, `mnist_sparse` and `mnist_soft` differ in nothing but `moe.layer`.
"""

from dataclasses import dataclass, replace

from moejax.config import Config, ModelConfig, MoeConfig, TrainConfig


@dataclass(frozen=True)
class Preset:
    """A configuration and what to expect of it."""

    config: Config
    data: str
    time: str  # on two CPU cores, report included
    accuracy: str  # on the official test images

    def __str__(self) -> str:
        return f"{self.data}; {self.time}; {self.accuracy}"


def _mnist(layer: str) -> Config:
    return Config(
        name=f"mnist_{layer}",
        moe=MoeConfig(layer=layer),
        train=TrainConfig(epochs=4, batch_size=64, learning_rate=3e-3, shift=1.0),
    )


PRESETS = {
    "mnist_soft": Preset(_mnist("soft"), "MNIST", "?", "?"),
    "mnist_sparse": Preset(_mnist("sparse"), "MNIST", "?", "?"),
    "mnist_dense": Preset(_mnist("dense"), "MNIST", "?", "?"),
    "mnist_tiny": Preset(
        Config(
            name="mnist_tiny",
            model=ModelConfig(stem=4, kernel=3, width=16, depth=1),
            moe=MoeConfig(layer="soft", num_experts=4, hidden=16, slots=2),
            train=TrainConfig(epochs=1, batch_size=16, learning_rate=3e-3, chunk=1000),
        ),
        "MNIST",
        "?",
        "?",
    ),
}
PRESETS["mnist_best"] = replace(PRESETS["mnist_soft"])
