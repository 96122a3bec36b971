"""The MNIST presets' models as an ordinary PyTorch user writes them: the same layers, parameters, slots and answers.

Axis letters: b images, t tokens of an image or group, g groups, e experts, k choices, c slots, d width, h hidden width.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moejax.config import Config
from moejax.dispatch import default_group_size
from moejax.models.image import ImageClassifier as Ours
from moejax.models.image import grid_of
from moejax.options import Options
from moejax.routing import expert_capacity

DISPATCHES = ("loop", "einsum")  # two ordinary ways to write a sparse layer


def normal(*shape: int, deviation: float) -> nn.Parameter:
    """A parameter of normal numbers."""
    return nn.Parameter(deviation * torch.randn(*shape))


class Experts(nn.Module):
    """E two-layer perceptrons, their parameters stacked."""

    def __init__(self, e: int, d: int, h: int):
        super().__init__()
        self.up, self.up_bias = normal(e, d, h, deviation=d**-0.5), nn.Parameter(torch.zeros(e, h))
        self.down, self.down_bias = normal(e, h, d, deviation=h**-0.5), nn.Parameter(torch.zeros(e, d))

    def forward(self, x: Tensor) -> Tensor:
        """Each expert on its own rows [e, n, d], by batched products."""
        x = gelu(torch.baddbmm(self.up_bias[:, None], x, self.up))
        return torch.baddbmm(self.down_bias[:, None], x, self.down)

    def each(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The experts one by one; `unbind`, since the derivative of indexing one of them is as large as all."""
        parameters = (p.unbind() for p in (self.up, self.up_bias, self.down, self.down_bias))
        for up, up_bias, down, down_bias in zip(*parameters, strict=True):
            yield lambda x, u=up, ub=up_bias, v=down, vb=down_bias: torch.addmm(vb, gelu(torch.addmm(ub, x, u)), v)


class DenseMoE(nn.Module):
    """All experts on all tokens."""

    def __init__(self, d: int, moe: Options):
        super().__init__()
        self.router = normal(d, moe.num_experts, deviation=0.02)
        self.experts = Experts(moe.num_experts, d, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [b, t, d] to answers, and the auxiliary loss."""
        rows = x.flatten(0, 1)
        gates = (rows @ self.router).softmax(-1)
        y = self.experts(rows.expand(len(self.experts.up), -1, -1))
        return torch.einsum("ne,end->nd", gates, y).view_as(x), x.new_zeros(())


class SparseMoE(nn.Module):
    """Each token to its k best experts while they have room, in groups of tokens that the images' fill exactly."""

    def __init__(self, d: int, moe: Options, dispatch: str):
        super().__init__()
        self.moe, self.dispatch = moe, dispatch
        self.group = default_group_size(moe.hidden) if moe.group_size is None else moe.group_size
        self.router = normal(d, moe.num_experts, deviation=0.02)
        self.experts = Experts(moe.num_experts, d, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [b, t, d] to answers, and the auxiliary loss."""
        moe, tokens = self.moe, x.reshape(-1, self.group, x.shape[-1])
        factor = moe.capacity_factor if self.training else moe.eval_capacity_factor
        capacity = expert_capacity(self.group, moe.num_experts, moe.k, factor)

        logits = tokens @ self.router
        probs = logits.softmax(-1)
        weights, experts = probs.topk(moe.k)
        weights = weights / weights.sum(-1, keepdim=True)
        chosen = F.one_hot(experts, moe.num_experts)  # g t k e
        in_order = chosen.transpose(1, 2).flatten(1, 2)  # all first choices, then all second ones
        before = (in_order.cumsum(1) - in_order).view(chosen.transpose(1, 2).shape).transpose(1, 2)
        slots = (before * chosen).sum(-1)
        kept = slots < capacity

        share = chosen.sum(2).flatten(0, 1).float().mean(0) / moe.k
        balance = moe.num_experts * (share * probs.flatten(0, 1).mean(0)).sum()
        z = logits.logsumexp(-1).square().mean()
        entropy = -(probs * logits.log_softmax(-1)).sum(-1).mean()
        way = self.by_loop if self.dispatch == "loop" else self.by_einsum
        y = way(tokens, experts, weights * kept, slots, capacity)
        return y.view_as(x), moe.balance_weight * balance + moe.z_weight * z + moe.entropy_weight * entropy

    def by_loop(self, tokens: Tensor, experts: Tensor, weights: Tensor, slots: Tensor, capacity: int) -> Tensor:
        """Expert by expert: its tokens, its answers, added where they belong."""
        rows, weights = tokens.flatten(0, 1), weights.flatten(0, 1)
        experts = experts.masked_fill(slots >= capacity, -1).flatten(0, 1)
        y = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts.each()):
            row, choice = torch.where(experts == e)
            y.index_add_(0, row, weights[row, choice, None] * expert(rows[row]))
        return y

    def by_einsum(self, tokens: Tensor, experts: Tensor, weights: Tensor, slots: Tensor, capacity: int) -> Tensor:
        """By products with masks [g, t, e, c]; one slot more for those that are dropped, cut off."""
        slot = F.one_hot(slots.clamp(max=capacity), capacity + 1)[..., :capacity].to(tokens.dtype)
        place = F.one_hot(experts, self.moe.num_experts).to(tokens.dtype)
        dispatch = torch.einsum("gtke,gtkc->gtec", place, slot)
        combine = torch.einsum("gtke,gtkc->gtec", weights[..., None] * place, slot)
        x = torch.einsum("gtec,gtd->egcd", dispatch, tokens)
        return torch.einsum("gtec,egcd->gtd", combine, self.experts(x.flatten(1, 2)).view_as(x))


class SoftMoE(nn.Module):
    """Every slot a mixture of an image's tokens, every answer a mixture of slots."""

    def __init__(self, d: int, moe: Options):
        super().__init__()
        self.router = normal(d, moe.num_experts, moe.slots, deviation=d**-0.5)
        self.scale = nn.Parameter(torch.tensor(moe.scale))
        self.experts = Experts(moe.num_experts, d, moe.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [b, t, d] to answers, and the auxiliary loss."""
        logits = torch.einsum("btd,dec->btec", unit(x, -1), self.scale * unit(self.router, 0))
        dispatch, combine = logits.softmax(1), logits.flatten(2).softmax(-1).view_as(logits)
        slots = torch.einsum("btec,btd->ebcd", dispatch, x)
        y = self.experts(slots.flatten(1, 2)).view_as(slots)
        return torch.einsum("btec,ebcd->btd", combine, y), x.new_zeros(())


class ImageClassifier(nn.Module):
    """Two convolutions, blocks with an MoE layer each, one linear head over all tokens."""

    def __init__(self, config: Config, num_classes: int = 10, dispatch: str = "loop"):
        super().__init__()
        m, (rows, columns) = config.model, grid_of(config.model, (28, 28))
        layers = {"dense": DenseMoE, "sparse": lambda d, moe: SparseMoE(d, moe, dispatch), "soft": SoftMoE}
        self.first = nn.Conv2d(1, m.stem, m.kernel, stride=2, padding=(m.kernel - 2) // 2)
        over = (rows - 1) * m.stride + m.kernel - 14  # what the windows reach beyond the 14 × 14 image
        self.second = nn.Conv2d(m.stem, m.width, m.kernel, stride=m.stride, padding=over // 2)
        self.position = normal(rows * columns, m.width, deviation=0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(m.width, eps=1e-6) for _ in range(m.depth))
        self.layers = nn.ModuleList(layers[config.moe.layer](m.width, config.moe) for _ in range(m.depth))
        self.norm = nn.LayerNorm(m.width, eps=1e-6)
        self.head = nn.Linear(rows * columns * m.width, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [b, 28, 28] of 0 to 255 to logits, and the sum of the layers' auxiliary losses."""
        x = (images[:, None].float() / 255 - 0.1307) / 0.3081
        x = gelu(self.second(gelu(self.first(x))))
        x = x.flatten(2).transpose(1, 2) + self.position
        auxiliary = x.new_zeros(())
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y, loss = layer(norm(x))
            x, auxiliary = x + y, auxiliary + loss
        return self.head(self.norm(x).flatten(1)), auxiliary


def gelu(x: Tensor) -> Tensor:
    """By tanh, as JAX's is."""
    return F.gelu(x, approximate="tanh")


def unit(x: Tensor, axis: int) -> Tensor:
    """Of length 1 along an axis; zeros stay."""
    return x * torch.rsqrt((x * x).sum(axis, keepdim=True) + 1e-6)


def copy_parameters(ours: Ours, theirs: ImageClassifier) -> None:
    """Give the PyTorch model the parameters of ours."""

    def put(parameter: Tensor, value: np.ndarray) -> None:
        parameter.copy_(torch.tensor(np.asarray(value)))

    def put_linear(linear: nn.Linear | nn.LayerNorm, weight: np.ndarray, bias: np.ndarray) -> None:
        put(linear.weight, weight)
        put(linear.bias, bias)

    with torch.no_grad():
        stem = ours.stem
        put_linear(theirs.first, as_convolution(stem.first.kernel, theirs.first), stem.first.bias)
        put_linear(theirs.second, as_convolution(stem.second.kernel, theirs.second), stem.second.bias)
        put(theirs.position, ours.position)
        for block, norm, layer in zip(ours.blocks, theirs.norms, theirs.layers, strict=True):
            put_linear(norm, block.norm.scale, block.norm.bias)
            put(layer.router, block.moe.router.kernel)
            if hasattr(layer, "scale"):
                put(layer.scale, block.moe.router.scale)
            for linear, name in ((block.moe.experts.up, "up"), (block.moe.experts.down, "down")):
                put(getattr(layer.experts, name), linear.kernel)
                put(getattr(layer.experts, f"{name}_bias"), linear.bias)
        put_linear(theirs.norm, ours.norm.scale, ours.norm.bias)
        put_linear(theirs.head, np.asarray(ours.head.kernel).T, ours.head.bias)


def as_convolution(kernel: np.ndarray, convolution: nn.Conv2d) -> np.ndarray:
    """Our stem's matrix, whose rows are windows made of blocks (`models.image.patches`), as PyTorch has it."""
    size, block = convolution.kernel_size[0], int(np.gcd(convolution.kernel_size[0], convolution.stride[0]))
    blocks, out = size // block, convolution.out_channels
    windows = np.asarray(kernel).reshape(blocks, blocks, block, block, -1, out)
    return windows.transpose(5, 4, 0, 2, 1, 3).reshape(out, -1, size, size)
