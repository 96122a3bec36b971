"""Our soft layer against soft-moe-pytorch 0.1.9, our sparse top-2 against st-moe-pytorch 0.1.8: what is the same, and
precisely where their definitions differ. Recorded answers everywhere; live where torch and the packages are installed.
"""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peer_answers import TOLERANCE, errors, load

from moejax.experts import GLU, MLP
from moejax.layers import SoftMoE, SparseMoE

erf_gelu = partial(jax.nn.gelu, approximate=False)


def recorded_or_live(source, name):
    if source == "recorded":
        return load(f"{name}_moe_pytorch")
    pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    pytest.importorskip(f"{name}_moe_pytorch", reason=f"pip install {name}-moe-pytorch")
    return getattr(importlib.import_module("live_peers"), f"{name}_case")()


def stacked(weights, name, num_experts):
    """One array of all experts; matrices as [e, inputs, outputs]."""
    whole = np.stack([weights[f"experts.experts.{e}.{name}"] for e in range(num_experts)])
    return jnp.asarray(whole.swapaxes(1, 2) if whole.ndim == 3 else whole)


def soft_layer(weights):
    """Theirs, for gains γ = 1 of its two norms. With L = scale · l2norm(x) · l2norm(Φ) for ours:

    - it makes tokens and slots √d long, where ours are 1 long: its logits are ours with a scale of d. Its scale is
      learnt as γ, one a channel; ours is one number;
    - its slots are mixtures of the √d long tokens, ours of the tokens as they are: so ours is given √d · l2norm(x);
    - it divides by max(|x|, 1e-12), ours by √(|x|² + 1e-6).
    """
    layer = jax.eval_shape(
        lambda: SoftMoE(8, 3, lambda rngs: MLP(8, 12, activation=erf_gelu, rngs=rngs), slots=2, rngs=nnx.Rngs(0))
    )
    layer.router.kernel.set_value(jnp.asarray(weights["slot_embeds"].transpose(2, 0, 1)))
    layer.router.scale.set_value(jnp.float32(8))
    for linear, place in ((layer.experts.up, "0"), (layer.experts.down, "3")):
        linear.kernel.set_value(stacked(weights, f"{place}.weight", 3))
        linear.bias.set_value(stacked(weights, f"{place}.bias", 3))

    def call(layer, x):
        return layer(8**0.5 * x / jnp.linalg.norm(x, axis=-1, keepdims=True))

    return jax.tree_util.Partial(call, layer)


def sparse_layer(weights, **options):
    """Theirs, the same but for names:

    - its experts are GEGLUs, the gate the second half, with a vector `mult_bias` on the hidden units: here that is
      multiplied into the rows of the map back;
    - its capacity is ⌊cf · t / E⌋, at least 4: no factor k, and rounded down where ours is rounded up. For 20 tokens, 5
      experts and 1.75 it is 7, which ours has at a capacity factor of 0.875.

    Set otherwise than by default in theirs, since ours has neither: it leaves out a second choice with probability
    1 - weight / 0.2, also at evaluation (here threshold 0: never); and its dispatch array passes the gradient of the
    combine array straight through (here off).
    """

    def expert(rngs):
        return GLU(8, 12, activation=erf_gelu, use_bias=True, rngs=rngs)

    layer = jax.eval_shape(
        lambda: SparseMoE(8, 5, expert, k=2, group_size=0, eval_capacity_factor=0.875, **options, rngs=nnx.Rngs(0))
    )
    layer.router.kernel.set_value(jnp.asarray(weights["gate.to_gates.weight"].T))
    experts, of = layer.experts, partial(stacked, weights, num_experts=5)
    experts.gate_up.kernel.set_value(jnp.roll(of("net.0.weight"), 12, axis=-1))
    experts.gate_up.bias.set_value(jnp.roll(of("net.0.bias"), 12, axis=-1))
    experts.down.kernel.set_value(of("net.1.mult_bias")[..., None] * of("net.2.weight"))
    experts.down.bias.set_value(of("net.2.bias"))
    return layer


@pytest.mark.parametrize("source", ["recorded", "live"])
def test_soft_moe_pytorch(source):
    case = recorded_or_live(source, "soft")
    [(forward, backward, _)] = errors(case, soft_layer(case["weights"]))
    assert forward <= TOLERANCE
    assert backward <= TOLERANCE


# Its annotations are older than what beartype wants.
@pytest.mark.filterwarnings("ignore:Method st_moe_pytorch:beartype.roar.BeartypeDecorHintPep585DeprecationWarning")
@pytest.mark.parametrize("source", ["recorded", "live"])
def test_st_moe_pytorch(source):
    case = recorded_or_live(source, "st")
    layers = [sparse_layer(case["weights"], dispatch=dispatch) for dispatch in ("einsum", "gather")]
    for forward, backward, routing in errors(case, *layers):
        assert forward <= TOLERANCE
        assert backward <= TOLERANCE
        assert not routing.kept.all()
