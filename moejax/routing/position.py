"""Queue position: the number of earlier choices in the group that picked the same expert.

It is counted in blocks: earlier equal choices within the block, plus the expert's choices in the blocks before. The
usual cumulative sum of n one-hot vectors reads and writes n · E numbers several times, which is many times slower on a
CPU.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

_BLOCK = 32  # choices: of 8 to 256 the fastest for 64 experts on a CPU, and near the fastest for 8


def position_in_expert(experts: Int[Array, "g n"], num_experts: int) -> Int[Array, "g n"]:
    """How many earlier choices of the group picked the same expert; undefined where the expert is negative."""
    g, n = experts.shape
    rows = -(-n // _BLOCK)
    blocks = jnp.pad(experts, ((0, 0), (0, rows * _BLOCK - n)), constant_values=-1).reshape(g, rows, _BLOCK)
    alike = blocks[..., :, None] == blocks[..., None, :]
    earlier = jnp.tri(_BLOCK, k=-1, dtype=bool)[None, None]
    within = jnp.sum(alike & earlier, axis=-1, dtype=jnp.int32)
    each = jnp.arange(num_experts)[None, None, None]
    counts = jnp.sum(blocks[..., None] == each, axis=-2, dtype=jnp.int32)  # choices of each expert in each block
    before = jnp.cumsum(counts, axis=1) - counts
    position = within + jnp.take_along_axis(before, blocks, axis=-1)
    return position.reshape(g, rows * _BLOCK)[:, :n]
