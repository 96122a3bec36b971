"""Four tasks on each digit: which it is, whether it is odd, how much ink it has, how it leans (`data.tasks`).

Each task gets two numbers of an image, made by eight experts under a gate of its own (MMoE, Ma et al. 2018).
`--moe.layer dense` puts one gate in place of the four; with `--moe.num_experts 1 --moe.hidden 159` too it is a shared
bottom of as many FLOPs. The accuracy is the mean of the four tasks.
"""

from moejax.presets.preset import Preset

PRESETS = {
    "mnist_tasks": Preset(
        dict(
            name="mnist_tasks",
            data=dict(name="mnist_tasks"),
            model=dict(name="tasks", width=2, tower=16),
            moe=dict(layer="multi_gate", num_experts=8, hidden=16),
            train=dict(epochs=5, batch_size=128, learning_rate=1e-2, chunk=200),
        ),
        "MNIST",
        "20 seconds",
        "97.6 %, the mean of four tasks",
    ),
}
