"""Devices, cores, memory: what JAX computes on, and whether it is all that is here."""

import os
from collections.abc import Iterator
from pathlib import Path

from moejax.doctor.finding import Finding

_GB = 10**9
_LEAST_MEMORY = 2 * _GB  # what the default preset takes, and a little
NVIDIA = Path("/proc/driver/nvidia/version")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY = Path("/proc/meminfo")


def devices() -> Iterator[Finding]:
    """What JAX sees."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # another program may be on the GPU
    import jax

    from moejax.training.environment import describe_device

    try:
        jax.devices()
    except Exception as error:  # of any kind, and some without a word
        asked = f", with JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}" if os.environ.get("JAX_PLATFORMS") else ""
        why = f"JAX finds no device{asked} ({type(error).__name__} {error}".rstrip()
        yield Finding("devices", "none", f"{why}): unset JAX_PLATFORMS, or install what it names: 'moejax[cuda]'.")
        return
    unused = jax.default_backend() == "cpu" and NVIDIA.exists()
    yield Finding(
        "devices",
        f"{jax.device_count()} × {describe_device()}",
        "There is an NVIDIA GPU, but JAX computes on the CPU: pip install 'moejax[cuda]', and unset JAX_PLATFORMS."
        if unused
        else "",
    )


def cores_and_memory() -> Iterator[Finding]:
    """What this process may use, of what the machine has."""
    from moejax.kernels.blas_threads import cores

    may, has, quota = cores(), os.cpu_count() or 1, quota_of(text_of(QUOTA))
    few = quota is not None and quota < may
    yield Finding(
        "cores",
        f"{may} of {has}",
        f"As many threads are started, but this container gets the time of {quota:.2g}: they wait for each other; give"
        f" it whole cores, or start with  taskset -c 0-{max(1, int(quota)) - 1}  before the command."
        if few and quota is not None
        else "",
    )
    available = available_of(text_of(MEMORY))
    if available is not None:
        yield Finding(
            "memory",
            f"{available / _GB:.1f} GB available",
            "That is little for a run, which the system may end without a word: end other programs, or use mnist_tiny."
            if available < _LEAST_MEMORY
            else "",
        )


def quota_of(text: str) -> float | None:
    """Cores' worth of time that a container gets, of what cpu.max says; None without a limit."""
    time, _, period = text.strip().partition(" ")
    return int(time) / int(period) if time.isdecimal() and period.isdecimal() and int(period) else None


def available_of(text: str) -> int | None:
    """Bytes that can be had without swapping, of what /proc/meminfo says."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None


def text_of(file: Path) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
