"""What makes no sense in the shape of a mesh: beside the experts, the batch and, where they are known, the devices."""

from collections.abc import Callable

from moejax.options import Options


def mesh_problems(config: Options, devices: int | None = None) -> list[str]:
    """One sentence for each; `devices`: how many there are, None before anyone has looked."""
    p, t, experts = config.parallel, config.train, config.moe.num_experts
    if p.strategy == "pmap" and p.expert > 1:
        return [f"parallel.expert is {p.expert}, but parallel.strategy pmap copies all experts; use jit, or 1."]
    if p.strategy == "pmap" and p.reads == "share":
        return ["parallel.reads is share, but parallel.strategy pmap reads all examples onto every device; use jit."]
    if experts % p.expert:
        near = nearest_divisor(p.expert, experts)
        return [f"parallel.expert is {p.expert}, which does not divide moe.num_experts, {experts}; use {near}."]
    if devices is not None and p.data is None and devices % p.expert:
        near = nearest_divisor(p.expert, devices, experts)
        return [f"parallel.expert is {p.expert}, which does not divide the {devices} devices; use {near}."]
    if devices is not None and p.data is not None and p.data * p.expert != devices:
        expert = p.expert if devices % p.expert == 0 else nearest_divisor(p.expert, devices, experts)
        return [
            f"parallel.data × parallel.expert is {p.data} × {p.expert}, but there are {devices} devices; use"
            f" {devices // expert} × {expert}."
        ]
    mesh = None if devices is None else p.expert * data_devices(config, devices)
    mesh = mesh if p.data is None else p.data * p.expert
    if mesh is not None and t.batch_size > 0 and t.micro_batch_size % mesh:
        whole, parts = mesh * t.gradient_accumulation_steps, f" in {t.gradient_accumulation_steps} micro-batches"
        return [
            f"train.batch_size is {t.batch_size}, which {mesh} devices cannot share evenly"
            f"{parts if whole > mesh else ''}; use {max(whole, whole * round(t.batch_size / whole))}."
        ]
    return []


def data_devices(config: Options, devices: int, fits: Callable[[int], bool] = lambda shares: True) -> int:
    """How many of the devices lie along `data`: what the configuration says, else as many as share a batch evenly.

    `fits`: whether so many shares of a batch are as good as the whole. Where no number does, all: a problem.
    """
    p, most = config.parallel, devices // config.parallel.expert
    if p.data is not None:
        return p.data
    shares = ((n, n * p.expert) for n in range(most, 0, -1))
    return next((n for n, mesh in shares if config.train.micro_batch_size % mesh == 0 and fits(mesh)), most)


def nearest_divisor(wish: int, *numbers: int) -> int:
    """The divisor of all the numbers that is nearest to the wish, the smaller one of two."""
    return min((d for d in range(1, min(numbers) + 1) if not any(n % d for n in numbers)), key=lambda d: abs(d - wish))
