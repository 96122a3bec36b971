"""The named runs, one file a family. Each states its data, its time on two CPU cores and the accuracy to expect."""

from moejax.presets import mnist, mrpc
from moejax.presets.preset import Preset

__all__ = ["PRESETS", "Preset"]

PRESETS: dict[str, Preset] = {**mnist.PRESETS, **mrpc.PRESETS}
