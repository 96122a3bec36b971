"""The named runs, one file a family. Each states its data, its time on two CPU cores and the accuracy to expect."""

from moejax.presets import clusters, mnist, mnist_flat, mnist_lstm, mnist_tasks, mrpc, mrpc_minilm, text
from moejax.presets.preset import Preset

__all__ = ["PRESETS", "Preset", "listed"]

PRESETS: dict[str, Preset] = {
    **mnist.PRESETS,
    **mnist_flat.PRESETS,
    **mnist_lstm.PRESETS,
    **mnist_tasks.PRESETS,
    **clusters.PRESETS,
    **mrpc.PRESETS,
    **mrpc_minilm.PRESETS,
    **text.PRESETS,
}


def listed() -> str:
    """A line a preset."""
    width = max(map(len, PRESETS))
    return "\n".join(f"  {name:<{width}}  {preset}" for name, preset in PRESETS.items())
