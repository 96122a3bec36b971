"""What arguments must satisfy: one sentence for each that does not make sense, with its name, its value and what to do.

A layer, router or function raises the first (`refuse`); the configuration shows them all, each naming its own fields by
`prefix`.
"""

import math
from numbers import Integral, Real
from typing import Any

from moejax.names import DISPATCHES, PRIORITIES, ROUTERS


def refuse(problems: list[str]) -> None:
    """Raise the first, if there is one, as a ValueError."""
    if problems:
        raise ValueError(problems[0])


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> list[str]:
    """What is wrong with a whole number."""
    if not _is_whole(value):
        return [f"{name} is {value!r}; it must be a whole number."]
    if most is not None and not least <= value <= most:
        return [f"{name} is {value}; it must be from {least} to {most}."]
    return [] if value >= least else [f"{name} is {value}; it must be at least {least}."]


def number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None, below: float | None = None
) -> list[str]:
    """What is wrong with a finite number."""
    if not _is_real(value) or not math.isfinite(value):
        return [f"{name} is {value!r}; it must be a finite number."]
    bounds = []
    if above is not None:
        bounds.append((value > above, f"above {above:g}"))
    if least is not None:
        bounds.append((value >= least, f"at least {least:g}"))
    if below is not None:
        bounds.append((value < below, f"below {below:g}"))
    if all(kept for kept, _ in bounds):
        return []
    return [f"{name} is {value}; it must be {' and '.join(words for _, words in bounds)}."]


def truth(name: str, value: Any) -> list[str]:
    """What is wrong with a yes or no."""
    return [] if isinstance(value, bool) else [f"{name} is {value!r}; it must be True or False."]


def option_problems(
    *,
    renormalize: bool,
    num_expert_groups: int,
    topk_group: int,
    jitter: float,
    priority: str,
    routed_scaling_factor: float,
    bias_update_rate: float,
    raw_weights: bool,
    eval_noise: bool,
) -> list[str]:
    """Of a router's options."""
    problems = truth("renormalize", renormalize) + truth("raw_weights", raw_weights) + truth("eval_noise", eval_noise)
    problems += whole("num_expert_groups", num_expert_groups) or whole("topk_group", topk_group, 1, num_expert_groups)
    problems += number("jitter", jitter, least=0.0, below=1.0)
    problems += number("routed_scaling_factor", routed_scaling_factor, above=0.0)
    problems += number("bias_update_rate", bias_update_rate, least=0.0)
    if priority not in PRIORITIES:
        problems.append(f"priority is {priority!r}; the names are {', '.join(PRIORITIES)}.")
    return problems


def router_problems(
    *, num_experts: int, k: int, router: str | None, num_expert_groups: int, topk_group: int, prefix: str = ""
) -> list[str]:
    """Of a sparse router's choice; `router`: its name, None for one of another kind."""
    counts = {"num_experts": num_experts, "k": k, "num_expert_groups": num_expert_groups, "topk_group": topk_group}
    problems = [
        f"{prefix}{name} is {value!r}; it must be a whole number."
        for name, value in counts.items()
        if not _is_whole(value)
    ]
    if problems:
        return problems
    if num_experts < 1:
        return [f"{prefix}num_experts is {num_experts}; it must be at least 1."]
    if k < 1:
        problems.append(f"{prefix}k is {k}; it must be at least 1.")
    elif k > num_experts:
        problems.append(f"{prefix}k is {k}, but there are only {num_experts} experts ({prefix}num_experts).")
    elif router == "switch" and k != 1:
        problems.append(f"{prefix}k is {k}, but {prefix}router switch chooses 1 expert; use softmax_top_k or k 1.")
    elif router in ("top_k_softmax", "noisy_top_k") and k == 1:
        instead = {"top_k_softmax": "switch", "noisy_top_k": "vmoe"}[router]
        problems.append(
            f"{prefix}k is 1, which gives {prefix}router {router} no gradient: the only weight is 1; use {instead}."
        )
    if num_expert_groups < 1 or num_experts % num_expert_groups:
        problems.append(
            f"{prefix}num_expert_groups is {num_expert_groups}, which does not divide the {num_experts} experts"
            f" ({prefix}num_experts)."
        )
    elif not 1 <= topk_group <= num_expert_groups:
        problems.append(f"{prefix}topk_group is {topk_group}; it must be from 1 to {num_expert_groups} (all groups).")
    elif num_experts >= k > topk_group * (num_experts // num_expert_groups):
        room = topk_group * (num_experts // num_expert_groups)
        problems.append(f"{prefix}k is {k}, but the chosen groups hold only {room} experts; raise {prefix}topk_group.")
    if num_expert_groups > 1 and router not in ("softmax_top_k", "sigmoid", None):
        problems.append(
            f"{prefix}num_expert_groups is {num_expert_groups}, but only the routers softmax_top_k and sigmoid limit "
            f"the choice to groups, not {router}."
        )
    return problems


def sparse_problems(
    *,
    num_experts: int,
    k: int,
    router: str,
    num_expert_groups: int,
    topk_group: int,
    dispatch: str,
    capacity_factor: float | None,
    eval_capacity_factor: float | None,
    group_size: int | None,
    prefix: str = "",
) -> list[str]:
    """Of a sparse layer's arguments."""
    problems = []
    if router not in ROUTERS:
        problems.append(f"{prefix}router is {router!r}; the names are {', '.join(ROUTERS)}.")
    if dispatch not in DISPATCHES:
        problems.append(f"{prefix}dispatch is {dispatch!r}; the names are {', '.join(DISPATCHES)}.")
    problems += router_problems(
        num_experts=num_experts,
        k=k,
        router=router,
        num_expert_groups=num_expert_groups,
        topk_group=topk_group,
        prefix=prefix,
    )
    if dispatch == "grouped" and router == "expert_choice":
        problems.append(
            f"{prefix}dispatch is grouped, which sorts tokens by the expert they chose; with {prefix}router"
            " expert_choice use gather."
        )
    for name, factor in (("capacity_factor", capacity_factor), ("eval_capacity_factor", eval_capacity_factor)):
        if factor is None:
            continue
        if not _is_real(factor) or factor == math.inf:
            problems.append(f"{prefix}{name} is {factor!r}; it must be a finite number, or none for room for all.")
        elif not factor > 0:
            problems.append(f"{prefix}{name} is {factor}; it must be above 0, or none for room for every choice.")
    if group_size is not None and not _is_whole(group_size):
        problems.append(f"{prefix}group_size is {group_size!r}; it must be a whole number, or none.")
    elif group_size is not None and group_size < 1:
        problems.append(f"{prefix}group_size is {group_size}; it must be at least 1, or none.")
    return problems


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
