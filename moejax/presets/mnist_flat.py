"""MNIST with an image as one token: experts that are classifiers. `--data.name fashion_mnist` makes it Fashion-MNIST.

Base and guided: ten experts, unguided or guided by the labels. Flat: dense, sparse and soft in the sizes of a published
comparison; a soft layer has one slot an expert there, for with one token a second one would hold the same image.
"""

from moejax.presets.preset import Preset


def _expert_per_label(name: str, guided: bool, **losses: float) -> dict:
    """Ten experts 784-256-128-10 and a gate of the same shape; images moved by up to a pixel."""
    return dict(
        name=name,
        model=dict(
            name="flat",
            second_hidden=128,
            activation="relu",
            normalize=True,
            dropout=0.1,
            deep_gate=True,
            guided=guided,
        ),
        moe=dict(layer="dense", num_experts=10, hidden=256, learn_temperature=True, **losses),
        train=dict(
            epochs=5,
            batch_size=256,
            learning_rate=3e-3,
            weight_decay=0.0,
            shift=1.0,
            checkpoints="all",
            activations=True,
        ),
    )


def _flat(layer: str, shift: float, **moe: object) -> dict:
    """50 epochs; experts large enough to learn the images by heart see them moved by up to `shift` pixels."""
    hidden = moe["hidden"]
    return dict(
        name=f"mnist_flat_{layer}",
        model=dict(name="flat", second_hidden=hidden),
        moe=dict(layer=layer, **moe),
        train=dict(epochs=50, batch_size=1024, learning_rate=1e-3, shift=shift),
    )


PRESETS = {
    "mnist_base": Preset(
        _expert_per_label("mnist_base", False, entropy_weight=0.1, usage_weight=0.1),
        "MNIST",
        "1 minute",
        "98.1 %",
    ),
    "mnist_guided": Preset(
        _expert_per_label(
            "mnist_guided",
            True,
            assignment_weight=10.0,  # the loss is a mean over experts: a weight of 1 on its sum
            entropy_weight=0.5,
            l2_weight=0.2,
        ),
        "MNIST",
        "1 minute",
        "98.5 %",
    ),
    "mnist_flat_dense": Preset(
        _flat("dense", 1.0, num_experts=5, hidden=256), "MNIST", "4 minutes", "98.8 %; Fashion-MNIST 90.7 %"
    ),
    "mnist_flat_sparse": Preset(
        _flat(
            "sparse",
            0.0,
            num_experts=10,
            hidden=20,
            k=5,
            router="noisy_top_k",
            dispatch="gather",
            capacity_factor=None,
            eval_capacity_factor=None,
            balance_weight=0.0,
            z_weight=0.0,
        ),
        "MNIST",
        "2 minutes",
        "97.2 %; Fashion-MNIST 88.6 %",
    ),
    "mnist_flat_soft": Preset(
        _flat("soft", 1.0, num_experts=10, hidden=256, slots=1),
        "MNIST",
        "12 minutes",
        "98.9 %; Fashion-MNIST 90.7 %",
    ),
}
