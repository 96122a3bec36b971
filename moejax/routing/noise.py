"""Noise in training: a token whose experts score alike tries several, and the load gets a gradient.

The noise is drawn from a key, so a router stays a pure function; without a key there is no noise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from moejax.options import Share, checked
from moejax.routing.decision import TopKRouting
from moejax.routing.replay import of_chosen
from moejax.routing.top_k import best, softmax_top_k, top_k_softmax


@checked
def jitter(key: Key[Array, ""], x: Float[Array, "g t d"], amount: Share) -> Float[Array, "g t d"]:
    """Multiply the router's input by U(1 - amount, 1 + amount) (Switch, Fedus et al. 2021, section 2.2: 0.01)."""
    return x * jax.random.uniform(key, x.shape, x.dtype, 1 - amount, 1 + amount)


def noisy_top_k(
    clean: Float[Array, "g t e"],
    spread: Float[Array, "g t e"],
    k: int,
    key: Key[Array, ""] | None,
    *,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Choose among clean + N(0, 1) · (softplus(spread) + 0.01), then softmax of the chosen (Shazeer et al. 2017, 2.1).

    The result holds the noisy logits and the selection probabilities, from which `load_loss` estimates the load
    (appendix A). The 0.01 is from the authors' code: it keeps those probabilities and their gradients finite when the
    router learns to add no noise.
    """
    if spread.shape != clean.shape:
        raise ValueError(f"spread has the shape {spread.shape}; that of the logits is {clean.shape}.")
    if key is None:
        return top_k_softmax(clean, k, given=given)
    deviation = jax.nn.softplus(spread) + 0.01
    noisy = clean + deviation * jax.random.normal(key, clean.shape)
    routing = top_k_softmax(noisy, k, given=given)
    return routing._replace(selection_probability=selection_probability(clean, noisy, deviation, k))


def uniform_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    key: Key[Array, ""] | None,
    *,
    raw: bool = False,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Add uniform noise from 0 to 1 to the logits, choose the k best, weigh by the softmax without noise.

    Chen et al. 2022 ("Towards Understanding Mixture of Experts in Deep Learning", section 3). `raw`: the weights are
    the noisy logits instead, as in the authors' code; they may be negative.
    """
    noisy = logits if key is None else logits + jax.random.uniform(key, logits.shape)
    probs = jax.nn.softmax(logits, axis=-1)
    experts = best(noisy, k, given)
    return TopKRouting(noisy, probs, experts, of_chosen(noisy if raw else probs, experts))


def vmoe_top_k(
    logits: Float[Array, "g t e"],
    k: int,
    key: Key[Array, ""] | None,
    *,
    given: Int[Array, "g t k"] | None = None,
) -> TopKRouting:
    """Top-k of softmax(logits + N(0, 1/E²)), not renormalised (V-MoE, Riquelme et al. 2021, section 2.2).

    `probs` come from the logits without noise, as the paper's importance loss takes them; the weights come from the
    noisy logits. The selection probability is Shazeer's: it compares an expert with the k-th best of the others, where
    V-MoE's code compares with the k-th best of all.
    """
    if key is None:
        return softmax_top_k(logits, k, renormalize=False, given=given)
    deviation = jnp.full_like(logits, 1 / logits.shape[-1])
    noisy = logits + deviation * jax.random.normal(key, logits.shape)
    routing = softmax_top_k(noisy, k, renormalize=False, given=given)
    probability = selection_probability(logits, noisy, deviation, k)
    return routing._replace(probs=jax.nn.softmax(logits, axis=-1), selection_probability=probability)


def selection_probability(
    clean: Float[Array, "g t e"],
    noisy: Float[Array, "g t e"],
    deviation: Float[Array, "g t e"],
    k: int,
) -> Float[Array, "g t e"]:
    """Probability that an expert is among the k best, over its own noise alone (Shazeer et al. 2017, equation 9).

    The noise of the other experts stays as drawn. Unlike the choice itself, this has a gradient. It is 1 if k = E.
    """
    num_experts = noisy.shape[-1]
    if k == num_experts:
        return jnp.ones_like(clean)
    ranked = jnp.take_along_axis(noisy, best(noisy, k + 1), axis=-1)
    last, next_one = ranked[..., k - 1, None], ranked[..., k, None]
    # The k-th best of the others: for a chosen expert that is the (k + 1)-th of all. Where the two are alike, either.
    threshold = jnp.where(noisy > next_one, next_one, last)
    apart = clean - threshold
    barred = jnp.isinf(apart)  # a logit of -inf bars it, or so many others that it is sure: no noise changes that
    return jnp.where(barred, apart > 0, jax.scipy.stats.norm.cdf(jnp.where(barred, 0, apart) / deviation))
