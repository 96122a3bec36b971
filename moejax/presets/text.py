"""Language models of Python's own library, byte by byte. `--data.name text --data.dir DIR` makes them models of yours.

Dense and sparse have as many FLOPs a token, and are the same network but for the experts; sigmoid is in the manner of
DeepSeek-V3: a shared expert beside many narrow ones, balanced by a bias.
"""

from moejax.presets.preset import Preset


def _text(name: str, windows: int = 76_800, **moe) -> dict:
    return dict(
        name=f"text_{name}",
        data=dict(name="python", length=96, limit=windows),
        model=dict(name="decoder", width=32, depth=3, heads=2),
        moe=moe,
        train=dict(epochs=2, batch_size=32, evaluation_batch=50, learning_rate=1e-2, weight_decay=0.1, chunk=50),
    )


# The z-loss would hold the router back.
_TOP_2 = dict(layer="sparse", hidden=64, k=2, dispatch="grouped", z_weight=0.0)
_TINY = _text("tiny", num_experts=8, **_TOP_2)

PRESETS = {
    "text_dense": Preset(
        _text("dense", layer="dense", num_experts=1, hidden=128),
        "Python's library",
        "3 minutes",
        "1.86 bits a byte",
    ),
    "text_sparse": Preset(
        _text("sparse", num_experts=16, **_TOP_2), "Python's library", "4 minutes", "1.69 bits a byte"
    ),
    "text_sigmoid": Preset(
        _text(
            "sigmoid",
            windows=68_000,  # it is slower
            layer="sparse",
            router="sigmoid",
            num_experts=32,
            hidden=32,
            k=3,
            shared=32,
            dispatch="grouped",
            bias_update_rate=0.01,
            balance_weight=1e-4,
            balance_over="sequence",
            z_weight=0.0,
        ),
        "Python's library",
        "4 minutes",
        "1.7 bits a byte",
    ),
    "text_tiny": Preset(
        _TINY
        | dict(
            data=_TINY["data"] | dict(limit=16_000, evaluation_limit=1_000),
            model=_TINY["model"] | dict(depth=2),
            train=_TINY["train"] | dict(epochs=1),
        ),
        "Python's library, a part",
        "30 seconds",
        "2.5 bits a byte",
    ),
}
