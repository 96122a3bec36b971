"""How far would it scale? A cost model, 8 to 4,096 accelerators.  python -m benchmarks scaling   (seconds; no device)

Nothing here is measured. A training step of MoE layers on a mesh of data × expert devices does

    computes   6 FLOPs for each row and parameter, at the share of the peak rate that matrix products reach; or reads
               and writes its parameters three times, if that takes longer
    exchanges  the slots, in four all-to-alls a layer, which wait for each other and hide nothing
    averages   gradients: of its experts over `data`, of everything else over all; what is longer than a share of the
               backward pass shows

with the bytes of `crossing`, which a test counts in the compiled program, as it does these FLOPs. Predicted
efficiency is the time to compute over the time of all three. *Weak* scaling keeps the tokens of a device, so that the
batch grows with the devices; *strong* scaling keeps the batch. A point is left out where parameters, gradients and
Adam's two moments, each on every device that has the parameter (16 bytes), do not fit into memory; activations are not
counted.

Devices of a row of the mesh are next to each other. Makers' figures stand beside each machine; the shares, latencies
and models are choices of ours, to be changed here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.suite.crossing import expected
from moejax.report.markdown import markdown

TURNS = 0
DEVICE = "predicted"

DEVICES = [2**n for n in range(3, 13)]
TOKENS = {"weak": 8192, "strong": 2**22}  # of a device; of the batch
LEAST = 0.5  # the efficiency below which it has stopped scaling


class Network(Protocol):
    """How long devices take to send each other numbers."""

    def exchange(self, size: float, devices: int) -> float:
        """Seconds of an all-to-all of `size` bytes on each of so many neighbours."""

    def average(self, size: float, devices: int, stride: int) -> float:
        """Seconds of an all-reduce of `size` bytes over so many devices, each the `stride`-th."""


@dataclass(frozen=True)
class Nodes:
    """Nodes whose devices are linked directly, and a fabric between nodes that has room for all."""

    node: int  # devices
    inside: float  # bytes per second, out of a device
    outside: float
    latency: float  # seconds for each message

    def exchange(self, size: float, devices: int) -> float:
        near = min(devices, self.node)
        inside = size * (near - 1) / devices / self.inside
        outside = size * (devices - near) / devices / self.outside
        return max(inside, outside) + self.latency * (devices - 1)

    def average(self, size: float, devices: int, stride: int) -> float:
        near = min(devices, max(self.node // stride, 1))
        far = devices // near
        inside = 2 * size * (near - 1) / near / self.inside
        outside = 2 * size / near * (far - 1) / far / self.outside
        return inside + outside + 2 * self.latency * math.log2(devices)


@dataclass(frozen=True)
class Torus:
    """A pod in three dimensions; a set of neighbours is a block of it, without the links that close the torus."""

    link: float  # bytes per second, each of six, out of a device
    latency: float

    def exchange(self, size: float, devices: int) -> float:
        if devices == 1:
            return 0.0
        side = max(devices ** (1 / 3), 2)  # half of the numbers cross the middle: side / 2 devices to each link
        return size * side / 4 / self.link + self.latency * side

    def average(self, size: float, devices: int, stride: int) -> float:
        return 2 * size * (devices - 1) / devices / (6 * self.link) + 2 * self.latency * devices ** (1 / 3)


@dataclass(frozen=True)
class Machine:
    """An accelerator, and the network between many of them."""

    name: str
    flops: float  # bfloat16, dense, per second
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes per second
    network: Network
    reached: float = 0.6  # of `flops`, by the products of a layer
    hidden: float = 0.7  # of the backward pass, behind which gradients can be averaged


# NVIDIA's data sheets: H100 SXM, NVLink 900 GB/s both ways together, InfiniBand NDR 400 Gb/s for each GPU.
H100 = Machine("H100, InfiniBand", 989e12, 80e9, 3.35e12, Nodes(8, 450e9, 50e9, 2e-6))
# Google's: TPU v5p, 4,800 Gb/s over six links.
V5P = Machine("TPU v5p pod", 459e12, 95e9, 2.77e12, Torus(100e9, 1e-6))


@dataclass(frozen=True)
class Model:
    """Blocks of attention and an MoE layer of plain MLPs, with the shapes of `python -m benchmarks gpu`."""

    name: str
    layers: int
    d: int
    h: int
    experts: int
    k: int
    factor: float = 1.25  # capacity

    @property
    def of_experts(self) -> int:
        """Parameters of all experts."""
        return self.layers * self.experts * 2 * self.d * self.h

    @property
    def rest(self) -> int:
        """Parameters of everything else: attention's four products and the router."""
        return self.layers * (4 * self.d + self.experts) * self.d


FINE = Model("24 layers, d 2048, h 1024, E 64, k 8", 24, 2048, 1024, 64, 8)
COARSE = Model("8 layers, d 4096, h 14336, E 8, k 2", 8, 4096, 14336, 8, 2)


def flops(rows: float, of_an_expert: float, tokens: float, rest: float) -> float:
    """Of a device: forward, and twice as many backward, of its experts' slots and of its tokens."""
    return 6 * (rows * of_an_expert + tokens * rest)


def predict(model: Model, machine: Machine, data: int, expert: int, tokens: float) -> dict[str, float]:
    """Seconds of a step in its three parts, and whether it fits; `tokens` are those of a device."""
    rows = model.factor * model.k * tokens
    work = flops(rows, model.of_experts / model.experts, tokens, model.rest)
    parameters = model.of_experts / expert + model.rest
    compute = max(work / machine.reached / machine.flops, 3 * 2 * parameters / machine.bandwidth)
    slots = int(rows * model.d)
    sent = expected(slots=slots, experts=0, rest=0, data=data, expert=expert, width=2)["all-to-all"]
    of_experts = expected(slots=0, experts=model.of_experts, rest=0, data=data, expert=expert)["all-reduce"]
    rest = expected(slots=0, experts=0, rest=model.rest, data=data, expert=expert)["all-reduce"]
    network = machine.network
    average = network.average(of_experts, data, stride=expert) + network.average(rest, data * expert, stride=1)
    return {
        "compute": compute,
        "exchange": 4 * model.layers * network.exchange(sent / 4, expert) if sent else 0.0,
        "average": max(0.0, average - machine.hidden * 2 / 3 * compute),
        "fits": 16 * parameters <= machine.memory,
    }


def run(quick: bool) -> Iterator[dict[str, Any]]:
    """One row for each machine, model, way of scaling, number of devices and of devices that share the experts."""
    for machine in (H100, V5P):
        for model in (FINE, COARSE):
            for way, given in TOKENS.items():
                for devices in DEVICES[:2] if quick else DEVICES:
                    for expert in degrees(model, devices):
                        tokens = given if way == "weak" else given / devices
                        parts = predict(model, machine, devices // expert, expert, tokens)
                        whole = parts["compute"] + parts["exchange"] + parts["average"]
                        yield {
                            **{"machine": machine.name, "model": model.name, "way": way},
                            **{"devices": devices, "expert": expert, "tokens": tokens, **parts},
                            "efficiency": parts["compute"] / whole,
                        }


def degrees(model: Model, devices: int) -> list[int]:
    """Along `expert`: 1, and whatever power of two divides the experts and the devices."""
    return [2**n for n in range(0, 13) if model.experts % 2**n == 0 and devices % 2**n == 0]


def table(rows: list[dict[str, Any]]) -> str:
    """For each machine, model and way: the best efficiency at a few sizes, and how far its best degree scales."""
    shown = [n for n in (8, 64, 512, 4096) if any(row["devices"] == n for row in rows)]
    header = ["machine", "model", "scaling", *(f"{n:,} devices" for n in shown), f"at least {LEAST:.0%} up to"]
    kinds = dict.fromkeys((r["machine"], r["model"], r["way"]) for r in rows)
    return markdown(header, [_line(kind, rows, shown) for kind in kinds])


def _line(kind: tuple, rows: list[dict[str, Any]], shown: list[int]) -> list[str]:
    best = best_degrees([r for r in rows if (r["machine"], r["model"], r["way"]) == kind])
    cells = [f"{100 * best[n]['efficiency']:.0f} %, expert {best[n]['expert']}" if n in best else "–" for n in shown]
    good = [n for n, row in best.items() if row["efficiency"] >= LEAST]
    return [*kind, *cells, f"{max(good):,}" if good else "–"]


def best_degrees(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By number of devices, the row of the most efficient degree that fits."""
    fitting = sorted((row for row in rows if row["fits"]), key=lambda row: row["efficiency"])
    return {row["devices"]: row for row in fitting}
