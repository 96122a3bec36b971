"""What the arguments of a sparse layer must satisfy: one sentence for each that does not make sense.

The layer raises the first, the configuration shows them all, each naming its own fields by `prefix`.
"""

from moejax.names import DISPATCHES, ROUTERS


def sparse_problems(
    *,
    num_experts: int,
    k: int,
    router: str,
    expert_groups: int,
    chosen_groups: int,
    dispatch: str,
    capacity_factor: float | None,
    eval_capacity_factor: float | None,
    group_size: int | None,
    prefix: str = "",
) -> list[str]:
    """Sentences, each with the argument's name, its value and what to do."""
    problems = []
    if router not in ROUTERS:
        problems.append(f"{prefix}router is {router!r}; the names are {', '.join(ROUTERS)}.")
    if dispatch not in DISPATCHES:
        problems.append(f"{prefix}dispatch is {dispatch!r}; the names are {', '.join(DISPATCHES)}.")
    if num_experts < 1:
        problems.append(f"{prefix}num_experts is {num_experts}; it must be at least 1.")
        return problems
    if k < 1:
        problems.append(f"{prefix}k is {k}; it must be at least 1.")
    elif k > num_experts:
        problems.append(f"{prefix}k is {k}, but there are only {num_experts} experts ({prefix}num_experts).")
    elif router == "switch" and k != 1:
        problems.append(f"{prefix}k is {k}, but {prefix}router switch chooses 1 expert; use softmax_top_k or k 1.")
    elif router == "top_k_softmax" and k == 1:
        problems.append(
            f"{prefix}k is 1, which gives {prefix}router top_k_softmax no gradient: the only weight is 1; use switch."
        )
    if expert_groups < 1 or num_experts % expert_groups:
        problems.append(
            f"{prefix}expert_groups is {expert_groups}, which does not divide the {num_experts} experts"
            f" ({prefix}num_experts)."
        )
    elif not 1 <= chosen_groups <= expert_groups:
        problems.append(f"{prefix}chosen_groups is {chosen_groups}; it must be from 1 to {expert_groups} (all groups).")
    elif num_experts >= k > chosen_groups * (num_experts // expert_groups):
        room = chosen_groups * (num_experts // expert_groups)
        problems.append(
            f"{prefix}k is {k}, but the chosen groups hold only {room} experts; raise {prefix}chosen_groups."
        )
    if expert_groups > 1 and router not in ("softmax_top_k", "sigmoid"):
        problems.append(
            f"{prefix}expert_groups is {expert_groups}, but only the routers softmax_top_k and sigmoid limit the choice"
            f" to groups, not {router}."
        )
    if dispatch == "grouped" and router == "expert_choice":
        problems.append(
            f"{prefix}dispatch is grouped, which sorts tokens by the expert they chose; with {prefix}router"
            " expert_choice use gather."
        )
    for name, factor in (("capacity_factor", capacity_factor), ("eval_capacity_factor", eval_capacity_factor)):
        if factor is not None and not factor > 0:
            problems.append(f"{prefix}{name} is {factor}; it must be above 0, or none for room for every choice.")
    if group_size is not None and group_size < 1:
        problems.append(f"{prefix}group_size is {group_size}; it must be at least 1, or none.")
    return problems
