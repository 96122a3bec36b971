"""Sparse upcycling: a trained dense MLP becomes the experts of a sparse layer (Komatsuzaki et al. 2023).

Every expert begins as a copy of the MLP; the router is new. Where a token's weights sum to 1 and nothing is dropped,
the layer at first computes what the MLP did. Noise on the copies lets the experts become different sooner.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from moejax.experts import name_expert_axis
from moejax.layers import SparseMoE
from moejax.options import NotNegative, checked, in_words
from moejax.parameters import parameters, with_parameters
from moejax.sharding import DEFAULT_AXES, MeshAxes

M = TypeVar("M", bound=nnx.Module)


@checked
def upcycle(
    dense: nnx.Module,
    d: int,
    num_experts: int,
    *,
    exact: bool = True,
    noise: NotNegative = 0.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> SparseMoE:
    """A sparse layer whose experts are copies of `dense`, a module from tokens [..., d] to tokens.

    Args:
      exact: refuse options with which the layer, noise and drops aside, would not compute what `dense` does: a shared
        expert, experts that compute nothing, and a router whose weights do not sum to 1. The paper uses such routers
        for language, where the lost quality soon comes back (section 4.2); for vision it renormalises.
      noise: standard deviation of normal noise on each copied parameter, as a share of that parameter's own.
      options: of `SparseMoE`. By default nothing is dropped.

    Raises ValueError, in one sentence, for options that `exact` refuses, and for those that make no sense.
    """
    options = {"capacity_factor": None, "eval_capacity_factor": None} | options
    layer = SparseMoE(d, num_experts, lambda rngs: jax.tree.map(jnp.copy, dense), rngs=rngs, **options)
    if exact and (said := difference(layer)):
        raise ValueError(f"{in_words(said)}, or pass exact=False to begin with another function.")
    layer.experts = copies(dense, num_experts, noise=noise, mesh_axes=layer.mesh_axes, rngs=rngs)
    return layer


def difference(layer: SparseMoE) -> str:
    """Why a layer whose experts are all alike would not compute what one of them does, drops aside, and what to do.

    Empty if it would. Options stand in backticks (`moejax.options.in_words`).
    """
    if layer.shared is not None:
        return "`make_shared` adds a shared expert to what the MLP computes; leave it out"
    if layer.zero_computation is not None:
        return (
            f"{layer.zero_computation.total} experts compute nothing (`zero_experts` and its like), so that for tokens"
            " which choose them the layer would not compute what the MLP does; leave them out"
        )
    takes_all = layer.capacity_factor is None and layer.eval_capacity_factor is None
    if not (layer.router.weights_sum_to_1 and (layer.router.token_choice or takes_all)):
        return (
            f"`k` is {layer.k} of the router {type(layer.router).__name__}, whose weights then do not sum to 1, so that"
            " the layer would not compute what the MLP does; use softmax_top_k with `k` of at least 2"
        )
    return ""


def copies(dense: M, num_experts: int, *, noise: float = 0.0, mesh_axes: MeshAxes = DEFAULT_AXES, rngs: nnx.Rngs) -> M:
    """Copies of a module stacked along a leading axis, as the experts of any layer; `noise` as in `upcycle`."""
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (num_experts, *a.shape)), dense)
    name_expert_axis(stacked, mesh_axes)
    if not noise:
        return stacked
    leaves, structure = jax.tree.flatten(parameters(stacked))
    keys = jax.random.split(rngs.params(), len(leaves))
    noisy = [a + noise * a.std() * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return with_parameters(stacked, jax.tree.unflatten(structure, noisy))


def upcycle_moments(moments: nnx.Module, layer: SparseMoE) -> SparseMoE:
    """An optimiser's moments of the MLP as those of the layer: copies for each expert, zeros for what is new.

    `moments` is a tree like the MLP, such as Adam's first moments; an optimiser has moments of parameters alone
    (`moejax.parameters`). Raises ValueError for those of another module.
    """
    new = jax.tree.map(jnp.zeros_like, parameters(layer))
    likes, structure = jax.tree.flatten(new.experts)  # with partition metadata that the MLP does not have
    of_mlp = jax.tree.leaves(parameters(moments))
    given, wanted = [m.shape for m in of_mlp], [like.shape[1:] for like in likes]
    if given != wanted:
        raise ValueError(
            f"moments have the shapes {given}, but the MLP that the experts are copies of has {wanted}; give the"
            " moments of that MLP."
        )
    copied = [jnp.broadcast_to(m, like.shape) for m, like in zip(of_mlp, likes, strict=True)]
    new.experts = jax.tree.unflatten(structure, copied)
    return new


def upcycle_state(state: PyTree, dense: nnx.Module, convert: Callable[[nnx.Module], nnx.Module]) -> PyTree:
    """An optimiser's state with every tree like `dense` in it converted, and the rest, such as the count, as it is.

    For the MLP alone `convert` is `lambda m: upcycle_moments(m, layer)`; for a model around it, pass the model as
    `dense`, and a function that puts the converted MLP into the model. The paper resumes the state so for vision
    (section 3). Raises ValueError if nothing in the state is like `dense`.
    """
    structures = jax.tree.structure(dense), jax.tree.structure(parameters(dense))

    def matches(tree: PyTree) -> bool:
        return jax.tree.structure(tree) in structures

    if not any(map(matches, jax.tree.leaves(state, is_leaf=matches))):
        raise ValueError("state holds no tree like the dense module; was it initialised with another one?")
    return jax.tree.map(lambda tree: convert(tree) if matches(tree) else tree, state, is_leaf=matches)
