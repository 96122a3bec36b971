"""A trace of a few steps by JAX's profiler: what ran on the device, and how long."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

STEPS = 10


@contextmanager
def traced(folder: Path) -> Iterator[None]:
    """Inside, JAX records what runs, into the folder."""
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        yield


def how_to_open(folder: Path, steps: int) -> str:
    """What was recorded, and with what to look at it."""
    newest = max(folder.rglob("*perfetto_trace.json.gz"), key=lambda file: file.stat().st_mtime)
    return (
        f"traced {steps} steps: open {newest} at https://ui.perfetto.dev, or  xprof --logdir {folder}"
        "  (pip install xprof)"
    )
