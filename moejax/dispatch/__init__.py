"""Dispatch: tokens to experts and back. One function, three ways.

    x_e = dispatch · x          tokens  → expert slots
    y_e = experts(x_e)
    y   = combine · y_e         expert slots → tokens

    einsum    the definition: both as matrix products with masks
    gather    the same slots, filled by index
    grouped   no slots: tokens sorted by expert, and matrix products over groups of any size

Each is called as `way(experts, x, routing, ...)` and computes the same outputs and gradients, to rounding. `experts` is
the only thing it knows of them: a function of [e, g, c, d] for slots, of ([n, d], sizes) for sorted tokens.

`places` holds the index tables of gather and grouped; `rows` moves whole rows by them, in both directions without a
scatter; `grouped_matmul` is the product that grouped experts are made of, `slots` that of experts with slots. What
computes them: `grouped_cpu` by `grouped_numpy` or `grouped_blocks`, `grouped_gpu` by `grouped_mosaic` or
`grouped_triton`, others by `grouped_ragged`.
"""

from moejax.dispatch.einsum import (
    combine_dense,
    combine_slots,
    default_group_size,
    dispatch_tokens,
    einsum_dispatch,
    sparse_masks,
)
from moejax.dispatch.gather import gather_dispatch
from moejax.dispatch.grouped import grouped_dispatch, grouped_over_mesh
from moejax.dispatch.grouped_matmul import grouped_matmul, grouped_outer, rows_of_groups
from moejax.dispatch.slots import slot_matmul

__all__ = [
    "combine_dense",
    "combine_slots",
    "default_group_size",
    "dispatch_tokens",
    "einsum_dispatch",
    "gather_dispatch",
    "grouped_dispatch",
    "grouped_matmul",
    "grouped_outer",
    "grouped_over_mesh",
    "rows_of_groups",
    "slot_matmul",
    "sparse_masks",
]
