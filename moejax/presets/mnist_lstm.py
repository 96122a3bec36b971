"""MNIST row by row: two LSTMs with a noisy top-2 MoE layer between them."""

from moejax.presets.preset import Preset

PRESETS = {
    "mnist_lstm": Preset(
        dict(
            name="mnist_lstm",
            data=dict(validation=0),
            model=dict(name="lstm", width=256),
            moe=dict(
                layer="sparse",
                num_experts=10,
                hidden=512,
                router="noisy_top_k",
                dispatch="grouped",
                group_size=28,
                balance_weight=0.0,
                z_weight=0.0,
                importance_weight=0.01,
                load_weight=0.01,
            ),
            train=dict(
                epochs=20,
                batch_size=256,
                learning_rate=5e-3,
                weight_decay=0.0,
                label_smoothing=0.05,
                shift=2.0,
                rotate=10.0,
                zoom=0.1,
                dtype="bfloat16",
                chunk=20,
            ),
        ),
        "MNIST, all 60,000 training images",
        "42 minutes on one core",
        "99.4 %",
    ),
}
