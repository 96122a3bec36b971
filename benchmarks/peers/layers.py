"""PyTorch layers by other hands, made to a case, and called as ours are: the output, and the gradients of all.

Matched: the tokens, the router's matrix and so each token's choice, k = 2 experts of E, the slots of an expert in a
group where there are slots, and the FLOPs of a token: an expert of three matrices (a gated one) is two thirds as wide,
rounded down to a multiple of 8, which favours it. Not matched, since each is as its library has it: the activation,
biases, and losses computed on the way.
"""

import importlib.metadata
from collections.abc import Callable
from typing import NamedTuple

import torch
from numpy import ndarray
from torch import Tensor, nn

from benchmarks.suite.cases import Case
from moejax.kernels.blas_threads import cores


class Peer(NamedTuple):
    """A layer of a library."""

    package: str
    make: Callable[[Case, int], nn.Module]  # of a case, and the slots of an expert in a group
    router: Callable[[nn.Module], Tensor] | None = None  # its matrix


def gated(h: int) -> int:
    """The width of a gated expert with no more FLOPs than one of two matrices of width h."""
    return max(8, 2 * h // 3 // 8 * 8)


def mixture_of_experts(case: Case, slots: int) -> nn.Module:
    """Two matrices an expert, GELU; its capacity factor knows no k; no second choice is left to chance."""
    from mixture_of_experts import MoE

    layer = MoE(
        case.d,
        num_experts=case.experts,
        hidden_dim=case.h,
        activation=nn.GELU,
        second_policy_train="all",
        capacity_factor_train=factor(case, slots),
    )
    return Answer(layer)


def st_moe(case: Case, slots: int) -> nn.Module:
    """Gated experts; no second choice is left to chance."""
    from st_moe_pytorch import MoE

    layer = MoE(
        case.d,
        num_experts=case.experts,
        expert_hidden_mult=(gated(case.h) + 0.5) * 3 / 2 / case.d,  # it takes two thirds, rounded down
        gating_top_n=case.k,
        threshold_train=0.0,
        capacity_factor_train=factor(case, slots),
    )
    return Answer(layer)


def soft_moe(case: Case, slots: int) -> nn.Module:
    """Two matrices an expert, GELU; `slots` of an expert in a group."""
    from soft_moe_pytorch import SoftMoE

    return SoftMoE(case.d, num_experts=case.experts, num_slots=slots, expert_mult=(case.h + 0.5) / case.d)


def mixtral(implementation: str) -> Callable[[Case, int], nn.Module]:
    """Gated experts; nothing is dropped."""

    def make(case: Case, slots: int) -> nn.Module:
        from transformers.models.mixtral.modeling_mixtral import MixtralConfig, MixtralSparseMoeBlock

        config = MixtralConfig(
            hidden_size=case.d,
            intermediate_size=gated(case.h),
            num_local_experts=case.experts,
            num_experts_per_tok=case.k,
        )
        config._experts_implementation = implementation
        return MixtralSparseMoeBlock(config)

    return make


def factor(case: Case, slots: int) -> float:
    """The capacity factor that makes so many slots where slots are ⌊factor · tokens / experts⌋."""
    return (slots + 0.5) * case.experts / case.group_size


class Answer(nn.Module):
    """A layer that also returns its losses, without them."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


SPARSE = {
    "mixture-of-experts": Peer("mixture-of-experts", mixture_of_experts, lambda layer: layer.layer.gate.w_gating),
    "st-moe-pytorch": Peer("st-moe-pytorch", st_moe, lambda layer: layer.layer.gate.to_gates.weight),
    "Mixtral eager": Peer("transformers", mixtral("eager"), lambda layer: layer.gate.weight),
    "Mixtral grouped_mm": Peer("transformers", mixtral("grouped_mm"), lambda layer: layer.gate.weight),
}
SOFT = {"soft-moe-pytorch": Peer("soft-moe-pytorch", soft_moe)}


def call(peer: Peer, case: Case, slots: int, x: ndarray, dy: ndarray, router: ndarray | None) -> Callable[[], tuple]:
    """The layer on tokens [1, t, d]: output, and gradients of the tokens and of every parameter.

    Raises:
      ImportError: its package is not installed.
    """
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    layer = peer.make(case, slots).train()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        if peer.router is not None:
            matrix, ours = peer.router(layer), torch.tensor(router)
            matrix.copy_(ours if matrix.shape == ours.shape else ours.T)
    x, dy = (torch.tensor(a).reshape(-1, case.group_size, case.d) for a in (x, dy))
    inputs = [x.requires_grad_(), *layer.parameters()]

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = layer(x)
        return y, torch.autograd.grad(y, inputs, dy)

    return run


def version(peer: Peer) -> str:
    """Of its package."""
    return importlib.metadata.version(peer.package)
