"""The MNIST presets trained by an ordinary PyTorch eager loop: the same model, examples, optimiser and schedule.

Ordinary: a module (`models`), `torch.optim.AdamW` and `LambdaLR` as they come, `clip_grad_norm_`, a loop over
batches indexed out of one tensor, which is faster than a DataLoader. It reads no loss and computes no metrics, where
our steps report theirs. On as many threads as the process may use cores; on a GPU where JAX uses one.
"""

import math
from collections.abc import Callable

import jax
import torch
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.peers.models import ImageClassifier
from benchmarks.suite.loops import Loop
from moejax.config import Config
from moejax.config.training import TrainOptions
from moejax.kernels.blas_threads import cores


def make_loop(config: Config, host: dict[str, ndarray], steps: int, schedule: int, dispatch: str = "loop") -> Loop:
    """A call trains one epoch of `steps` steps on the examples, of a `schedule` of so many; nothing is compiled."""
    train, device = config.train, use_device()
    images = torch.tensor(host["image"], device=device)
    labels = torch.tensor(host["label"], device=device).long()
    model = ImageClassifier(config, dispatch=dispatch).to(device)
    optimizer = make_optimizer(model, train)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_share(train, schedule))

    def call() -> None:
        order = torch.randperm(len(images), device=device)
        for i in range(steps):
            rows = order[i * train.batch_size : (i + 1) * train.batch_size]
            logits, auxiliary = model(shifted(images[rows].float(), train.shift))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=train.label_smoothing) + auxiliary
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimizer.step()
            rate.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Loop(call, 0.0)


def use_device() -> torch.device:
    """JAX's kind of device, with all cores that this process may use.

    Raises RuntimeError if this PyTorch cannot use it.
    """
    torch.set_num_threads(cores())
    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    return torch.device("cuda")


def make_optimizer(model: nn.Module, train: TrainOptions) -> torch.optim.Optimizer:
    """AdamW; decay acts on matrices only."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and "bias" not in name].append(parameter)
    decays = [
        {"params": groups[True], "weight_decay": train.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(decays, lr=train.learning_rate)


def learning_rate_share(train: TrainOptions, steps: int) -> Callable[[int], float]:
    """Of the peak, by step: a linear warm-up, then half a cosine."""
    warmup = int(train.warmup * steps)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) / 2

    return share


def shifted(images: Tensor, pixels: float) -> Tensor:
    """Each image moved by up to so many pixels both ways, bilinear, zeros from outside."""
    if not pixels:
        return images
    b, i, j = images.shape
    theta = torch.eye(2, 3, device=images.device).repeat(b, 1, 1)
    theta[:, :, 2] = pixels * (2 * torch.rand(b, 2, device=images.device) - 1) * 2 / torch.tensor([j, i]).to(theta)
    grid = F.affine_grid(theta, [b, 1, i, j], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
