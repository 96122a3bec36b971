"""MRPC learnt from scratch: feed-forward experts that read a summary of a sentence, or convolutional or recurrent ones
that read its words."""

from moejax.presets.preset import Preset


def _mrpc(expert: str, **moe) -> dict:
    return dict(
        name=f"mrpc_{expert}",
        data=dict(name="mrpc", validation=408, vocabulary=8000, length=40),
        model=dict(name="pair", width=32, kernel=3, embedding=16, dropout=0.3),
        moe=dict(expert=expert, **moe),
        train=dict(epochs=6, batch_size=64, learning_rate=2e-3, weight_decay=0.1, chunk=57),
    )


_SPARSE = dict(layer="sparse", num_experts=4, hidden=32, group_size=64, capacity_factor=1.5, eval_capacity_factor=None)

PRESETS = {
    "mrpc_mlp": Preset(_mrpc("mlp", layer="dense", num_experts=10, hidden=512), "MRPC", "30 seconds", "73 %"),
    "mrpc_cnn": Preset(_mrpc("cnn", **_SPARSE), "MRPC", "30 seconds", "74 %"),
    "mrpc_rnn": Preset(_mrpc("rnn", **_SPARSE), "MRPC", "1 minute", "74 %"),
}
