"""What a run's figures depend on beside its configuration: versions, device, cores, commit."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax

import moejax
from moejax.config import Config
from moejax.kernels.blas_threads import cores
from moejax.kernels.grouped_matmul import choices


def environment() -> dict[str, str | int]:
    """All of it, as JSON can hold it."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "moejax": moejax.__version__,
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": describe_device(),
        "device_count": jax.device_count(),
        "backend": device.platform,
        "cores": cores(),
        "commit": _commit(),
    }


def products_of(config: Config) -> dict[str, dict[str, str]]:
    """What computes a run's grouped products here, if it makes any."""
    return {"grouped_matmul": choices()} if getattr(config.moe, "dispatch", "") == "grouped" else {}


def describe_device() -> str:
    """The first device in words: its kind, and for a CPU its model, its widest vector instructions and its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        cpu = describe_cpu(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        cpu = ""
    return f"cpu ({cpu or platform.processor() or platform.machine()}, {cores()} core{'s' * (cores() != 1)})"


def describe_cpu(cpuinfo: str) -> str:
    """Model and vector instructions in what Linux says of a CPU: a model's name may stand for several generations."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    said = {field.strip(): value.strip() for field, _, value in lines}
    flags = said.get("flags", "").split()
    vectors = [words for flag, words in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags][:1]
    return ", ".join([said["model name"], *vectors]) if "model name" in said else ""


def _commit() -> str:
    """The commit of the source, and whether code was changed since: studies write their tables while they run."""
    try:
        name = _git("describe", "--always")
        changed = _git("status", "--porcelain", "-uno", "--", ":/*.py", ":/*.toml")
        return f"{name}-dirty" if name and changed else name or "unknown"
    except OSError:
        return "unknown"


def _git(*words: str) -> str:
    command = ["git", "-C", Path(__file__).parent, *words]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace").stdout.strip()
