"""MNIST as a grid of tokens: three presets that differ in the layer and its losses, a better one and a tiny one."""

from moejax.presets.preset import Preset


def _mnist(layer: str, **moe) -> dict:
    return dict(
        name=f"mnist_{layer}",
        moe=dict(layer=layer, **moe),
        train=dict(epochs=4, batch_size=64, learning_rate=3e-3, shift=1.0),
    )


PRESETS = {
    "mnist_soft": Preset(_mnist("soft", scale=10.0), "MNIST", "1 to 2 minutes", "99.3 %"),
    # The images alone do not make the router decide between its experts: the entropy loss does. The z-loss would hold
    # it back, and a router that decides needs more of the balance loss.
    "mnist_sparse": Preset(
        _mnist("sparse", dispatch="gather", entropy_weight=0.005, z_weight=0.0, balance_weight=0.02),
        "MNIST",
        "1 to 2 minutes",
        "99.2 %",
    ),
    "mnist_dense": Preset(_mnist("dense"), "MNIST", "1.5 to 2.5 minutes", "99.3 %"),
    "mnist_best": Preset(
        dict(
            name="mnist_best",
            data=dict(validation=0),
            model=dict(stem=32, kernel=4, stride=2, width=64, depth=3, neighbours=3),
            moe=dict(layer="soft", hidden=128, scale=10.0),
            train=dict(
                epochs=20,
                batch_size=100,
                learning_rate=3e-3,
                label_smoothing=0.05,
                shift=2.0,
                rotate=10.0,
                zoom=0.1,
            ),
        ),
        "MNIST, all 60,000 training images",
        "not yet timed alone",
        "99.6 %",
    ),
    "mnist_tiny": Preset(
        dict(
            name="mnist_tiny",
            model=dict(stem=4, kernel=4, stride=4, width=16, depth=1),
            moe=dict(layer="soft", num_experts=4, hidden=16, slots=2, scale=10.0),
            train=dict(epochs=1, batch_size=16, learning_rate=3e-3, chunk=500),
        ),
        "MNIST",
        "10 to 30 seconds",
        "96.5 %",
    ),
}
