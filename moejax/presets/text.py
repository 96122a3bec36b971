"""Language models of Python's own library, byte by byte. `--data.name text --data.dir DIR` makes them models of yours.

Dense and sparse have as many FLOPs a token, and are the same network but for the experts.
"""

from moejax.presets.preset import Preset


def _text(name: str, **moe) -> dict:
    return dict(
        name=f"text_{name}",
        data=dict(name="python", length=96, limit=76_800),
        model=dict(name="decoder", width=64, depth=3, heads=4),
        moe=moe,
        train=dict(epochs=1, batch_size=32, evaluation_batch=50, learning_rate=3e-3, weight_decay=0.1, chunk=50),
    )


_TOP_2 = dict(layer="sparse", num_experts=16, hidden=128, k=2, dispatch="grouped")

PRESETS = {
    "text_dense": Preset(_text("dense", layer="dense", num_experts=1, hidden=256), "Python's library", "3 minutes", ""),
    "text_sparse": Preset(_text("sparse", **_TOP_2), "Python's library", "3 minutes", ""),
}
