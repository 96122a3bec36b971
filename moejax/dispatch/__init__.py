"""Dispatch: tokens to experts and back. One function, three ways.

    x_e = dispatch · x          tokens  → expert slots
    y_e = experts(x_e)
    y   = combine · y_e         expert slots → tokens

    einsum    the definition: both as matrix products with masks
    gather    the same slots, filled by index
    grouped   no slots: tokens sorted by expert, and matrix products over groups of any size

Each is called as `way(experts, x, routing, ...)` and computes the same outputs and gradients, to rounding. `experts` is
the only thing it knows of them: a function of [e, g, c, d] for slots, of ([n, d], groups) for sorted tokens.

`index_tables` says which row holds which token, for gather and grouped; `rows` moves whole rows by it, in both
directions without a scatter. `grouped_mesh` is `grouped` where experts are shared by several devices. What computes the
experts' products is in `moejax.kernels`.
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
from moejax.dispatch.grouped import grouped_dispatch
from moejax.dispatch.grouped_mesh import grouped_over_mesh

__all__ = [
    "combine_dense",
    "combine_slots",
    "default_group_size",
    "dispatch_tokens",
    "einsum_dispatch",
    "gather_dispatch",
    "grouped_dispatch",
    "grouped_over_mesh",
    "sparse_masks",
]
