"""How fast it computes: which kernel makes grouped products, and a matrix product against what such a device does."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from moejax.doctor.finding import Finding
from moejax.doctor.machine import text_of

SECONDS = 1.0
CPUINFO = Path("/proc/cpuinfo")
# Dense products in bfloat16 with sums in float32, 10¹² operations a second, by the makers' data sheets.
PEAKS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "TPU v6 lite": 918,
    "TPU v5p": 459,
    "TPU v5 lite": 197,
    "TPU v4": 275,
}
_OF_A_CORE = 32  # operations a cycle in float32: two fused multiply-adds of eight numbers
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.5  # of the peak, below which something is amiss


def grouped_products() -> Iterator[Finding]:
    """What computes the experts' products of sorted rows (`moe.dispatch grouped`), by type of number."""
    import jax

    from moejax.kernels.grouped_matmul import choices

    platform, chosen = jax.default_backend(), choices()
    amiss = ""
    if platform == "cpu" and chosen["float32"] != "cpu_blas":
        amiss = (
            "The library of matrix products cannot be loaded, and without it they take several times as long: pip"
            " install --force-reinstall scipy-openblas32."
        )
    if platform == "gpu" and chosen["bfloat16"] == "ragged":
        amiss = (
            "None of the kernels for this GPU is right when tried, and what is left is slow: pip install"
            " 'moejax[tokamax]', or use moe.dispatch gather."
        )
    yield Finding("grouped kernel", ", ".join(f"{dtype} by {name}" for dtype, name in chosen.items()), amiss)


def matrix_product() -> Iterator[Finding]:
    """One product, for a second."""
    import jax

    device, on_cpu = jax.devices()[0], jax.default_backend() == "cpu"
    rate = measured(1024 if on_cpu else 8192, "float32" if on_cpu else "bfloat16")
    peak = cpu_peak(text_of(CPUINFO)) if on_cpu else accelerator_peak(device.device_kind)
    value = f"{rate / 1e9:,.0f} GFLOP/s" if on_cpu else f"{rate / 1e12:,.0f} TFLOP/s"
    if peak is None:
        yield Finding("matrix product", f"{value}; what such a device can do is not known here")
        return
    slow = rate < (CPU_SHARE if on_cpu else ACCELERATOR_SHARE) * peak
    yield Finding(
        "matrix product",
        f"{value}, {rate / peak:.0%} of what such a device can do at most",
        f"That is slow{_because()}: end other programs, and measure no speed until it is better." if slow else "",
    )


def measured(n: int, dtype: str) -> float:
    """Operations a second: products of n × n matrices, as many as fit into the time."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    a = jnp.full((n, n), 1 / n, dtype)
    product(a, a).block_until_ready()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS or not count:
        many = [product(a, a) for _ in range(4)]
        many[-1].block_until_ready()
        count += len(many)
    return 2 * n**3 * count / passed if passed else 0.0


def cpu_peak(cpuinfo: str) -> float | None:
    """Operations a second in float32 of the cores that this process may use; None where the system does not say."""
    from moejax.kernels.blas_threads import cores

    clock = [float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)]
    if not clock or " avx2" not in cpuinfo:
        return None
    together = re.search(r"^siblings\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    alone = re.search(r"^cpu cores\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    threads = int(together[1]) / int(alone[1]) if together and alone else 1  # of one core
    return 1e6 * max(clock) * _OF_A_CORE * cores() / threads


def accelerator_peak(kind: str) -> float | None:
    """Operations a second in bfloat16 of a device that is known."""
    return next((1e12 * peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", kind)), None)


def _because() -> str:
    """The likeliest reason."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    return f", while {load:.1f} programs share {cores} core{'s' * (cores != 1)}" if load > cores else ""
