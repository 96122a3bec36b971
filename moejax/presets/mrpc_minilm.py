"""MRPC with the pre-trained encoder MiniLM, two of its six feed-forward layers upcycled to MoE layers."""

from moejax.presets.preset import Preset

PRESETS = {
    "mrpc_minilm": Preset(
        dict(
            name="mrpc_minilm",
            data=dict(name="mrpc_pieces", validation=408, vocabulary=30522),
            model=dict(name="encoder", width=384, depth=6, heads=12, moe_every=3, dropout=0.1, room=60),
            moe=dict(layer="sparse", num_experts=4, k=2, hidden=1536, dispatch="grouped", group_size=512),
            train=dict(
                epochs=4,
                batch_size=32,
                evaluation_batch=50,
                learning_rate=2e-4,
                weight_decay=0.01,
                # Rare words stand in one pair each: moving their vectors learns pairs by heart.
                frozen="encoder.embeddings",
                tested="best",
                dtype="bfloat16",
                chunk=19,
            ),
        ),
        "MRPC, 4,076 pairs; fetches MiniLM, 83 MB",
        "15 minutes on one core",
        "81 %",
    ),
}
