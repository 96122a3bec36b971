"""The mixture of Chen et al. 2022 ("Towards Understanding Mixture of Experts in Deep Learning"): synthetic clusters.

    patches ─ router: Σ over patches of θ_m · x ─ one expert of E ─ its two sums of filters, weighted ─ [softmax]

The paper's single model is a dense layer with one expert.

Axis letters: b examples, p patches, d numbers of a patch, f filters.
"""

from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from moejax.data.clusters import PATCHES, WIDTH
from moejax.experts import Linear, apply_linear
from moejax.models.layer import LayerOptions, layer_maker
from moejax.options import Options, Positive
from moejax.routing import Routing


class PatchFilters(nnx.Module):
    """f filters on every patch, all summed over patches: the first half is the logit of class 0, the second of class 1.

    `cubic` takes each filter's output to the third power first. Weights and biases begin uniform within ± scale / √d.
    """

    def __init__(
        self,
        patches: int,
        d: int,
        filters: int,
        *,
        cubic: bool,
        scale: float = 1.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        def uniform(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -scale / d**0.5, scale / d**0.5)

        self.filters = nnx.Linear(d, filters, kernel_init=uniform, bias_init=uniform, dtype=dtype, rngs=rngs)
        self.patches, self.cubic = patches, cubic

    def __call__(self, x: Float[Array, "*batch pd"], linear: Linear = apply_linear) -> Float[Array, "*batch 2"]:
        """`x` holds the patches side by side."""
        patches = x.reshape(*x.shape[:-1], self.patches, -1)
        if not self.cubic:  # the sum over patches may as well come first, at a fraction of the cost
            return self._halves(self.patches * linear(self.filters, patches.mean(-2)))
        z = linear(self.filters, patches)
        return self._halves(z * z * z).sum(-2)

    @staticmethod
    def _halves(z: Float[Array, "*batch f"]) -> Float[Array, "*batch 2"]:
        """The sums of the first half and of the second, as a product: several times faster on a CPU than as sums."""
        half = jnp.repeat(jnp.eye(2, dtype=z.dtype), z.shape[-1] // 2, axis=0)
        return jnp.matmul(z, half, precision="highest")


class ClusterOptions(Options):
    """The filters of its experts."""

    activation: Literal["linear", "cubic"] = "linear"
    """What is done to a filter's output."""
    init_scale: Positive = 1.0
    """The filters begin uniform within ± this / √50."""
    double_softmax: bool = False
    """The logits are a softmax already, as in the authors' code: the loss cannot go below .313."""


class ClusterClassifier(nnx.Module):
    """Experts of linear or cubic patch filters for synthetic clusters (Chen et al. 2022)."""

    options, reads = ClusterOptions, "patches"
    layer_options, experts_return_tokens = LayerOptions, False
    tokens = 1

    @staticmethod
    def config_problems(config: Any) -> Iterator[str]:
        if config.moe.layer == "soft":
            yield "moe.layer is soft, which cannot route by a sum of patches (model.name clusters); use sparse."
        if config.moe.hidden % 2:
            yield f"moe.hidden is {config.moe.hidden}; half of a clusters expert's filters is for each class."

    def __init__(self, config: Options, num_classes: int, *, rngs: nnx.Rngs):
        m, dtype = config.model, jnp.dtype(config.train.dtype)

        def make_expert(rngs: nnx.Rngs) -> PatchFilters:
            cubic, scale = m.activation == "cubic", m.init_scale
            return PatchFilters(PATCHES, WIDTH, config.moe.hidden, cubic=cubic, scale=scale, dtype=dtype, rngs=rngs)

        self.moe = layer_maker(config.moe, WIDTH, dtype, make_expert)(rngs)
        self.double_softmax = m.double_softmax

    def __call__(
        self, batch: dict[str, Array], *, train: bool, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b 2"], tuple[Routing, ...]]:
        """`batch["patches"]`: [b, p, d]."""
        x = batch["patches"].reshape(batch["patches"].shape[0], 1, -1)
        y, routing = self.moe(x, router_input=self.content(batch), train=train, key=key)
        logits = y[:, 0].astype(jnp.float32)
        return jax.nn.softmax(logits) if self.double_softmax else logits, (routing,)

    def content(self, batch: dict[str, Array]) -> Float[Array, "b t d"]:
        """What the router sees: the sum of the patches."""
        return batch["patches"].sum(1, keepdims=True)
