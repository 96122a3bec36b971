from moejax import dispatch as dispatch, losses as losses, metrics as metrics, routing as routing, runs as runs
from moejax.dispatch import (
    default_group_size as default_group_size,
    einsum_dispatch as einsum_dispatch,
    gather_dispatch as gather_dispatch,
    grouped_dispatch as grouped_dispatch,
)
from moejax.experts import (
    GLU as GLU,
    MLP as MLP,
    apply_experts as apply_experts,
    apply_experts_to_all as apply_experts_to_all,
    apply_experts_to_groups as apply_experts_to_groups,
    stack_experts as stack_experts,
)
from moejax.huggingface import from_huggingface as from_huggingface, to_huggingface as to_huggingface
from moejax.huggingface.decoder import (
    decoder_from_huggingface as decoder_from_huggingface,
    decoder_to_huggingface as decoder_to_huggingface,
)
from moejax.inputs import ungroup as ungroup
from moejax.layers import DenseMoE as DenseMoE, SoftMoE as SoftMoE, SparseMoE as SparseMoE
from moejax.losses import (
    assignment_loss as assignment_loss,
    auxiliary_loss as auxiliary_loss,
    entropy_loss as entropy_loss,
    importance_loss as importance_loss,
    load_balance_loss as load_balance_loss,
    load_loss as load_loss,
    router_z_loss as router_z_loss,
    sparsity_loss as sparsity_loss,
    usage_loss as usage_loss,
)
from moejax.multi_gate import MultiGateMoE as MultiGateMoE
from moejax.parameters import decays as decays
from moejax.quantization import quantize as quantize
from moejax.router_updates import update_routers as update_routers
from moejax.routers import (
    ROUTERS as ROUTERS,
    DenseRouter as DenseRouter,
    Router as Router,
    SoftRouter as SoftRouter,
)
from moejax.kernels.groups import Groups as Groups
from moejax.sharding import MeshAxes as MeshAxes
from moejax.upcycling import upcycle as upcycle, upcycle_moments as upcycle_moments, upcycle_state as upcycle_state

__version__: str
