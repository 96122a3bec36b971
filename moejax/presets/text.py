"""Language models of Python's own library, byte by byte. `--data.name text --data.dir DIR` makes them models of yours.

Dense and sparse have as many FLOPs a token, and are the same network but for the experts; sigmoid is in the manner of
DeepSeek-V3: a shared expert beside many narrow ones, balanced by a bias.
"""

from typing import Any

from moejax.presets.preset import Preset

_USUAL: dict[str, dict[str, Any]] = dict(
    data=dict(name="python", length=96, limit=76_800),
    model=dict(name="decoder", width=32, depth=3, heads=2),
    train=dict(epochs=2, batch_size=32, evaluation_batch=50, learning_rate=1e-2, weight_decay=0.1, chunk=50),
)
_TOP_2 = dict(layer="sparse", hidden=64, k=2, dispatch="grouped", z_weight=0.0)  # a z-loss would hold the router back


def _text(name: str, moe: dict, **sections: dict) -> dict:
    usual = {section: values | sections.get(section, {}) for section, values in _USUAL.items()}
    return dict(name=f"text_{name}", moe=moe, **usual)


PRESETS = {
    "text_dense": Preset(
        _text("dense", dict(layer="dense", num_experts=1, hidden=128)),
        "Python's library",
        "3 minutes",
        "1.86 bits a byte",
    ),
    "text_sparse": Preset(
        _text("sparse", _TOP_2 | dict(num_experts=16)), "Python's library", "4 minutes", "1.69 bits a byte"
    ),
    "text_sigmoid": Preset(
        _text(
            "sigmoid",
            dict(
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
            data=dict(limit=68_000),  # it is slower
        ),
        "Python's library",
        "4 minutes",
        "1.72 bits a byte",
    ),
    "text_tiny": Preset(
        _text(
            "tiny",
            _TOP_2 | dict(num_experts=8),
            data=dict(limit=16_000, evaluation_limit=1_000),
            model=dict(depth=2),
            train=dict(epochs=1),
        ),
        "Python's library, a part",
        "30 seconds",
        "2.4 bits a byte",
    ),
}
