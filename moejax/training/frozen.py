"""Parameters that are not trained: those whose path begins with `train.frozen`, such as encoder.embeddings."""

import jax
import optax
from flax import nnx
from jax import lax

from moejax.errors import UserError
from moejax.parameters import parameters


def is_frozen(path: tuple, prefix: str | None) -> bool:
    """Whether a parameter's path begins with the prefix; None freezes nothing."""
    return prefix is not None and _name(path).startswith(prefix)


def hold(model: nnx.Module, prefix: str | None) -> nnx.Module:
    """The model with its frozen parameters as constants: their gradients are zeros and cost nothing."""
    if prefix is None:
        return model
    return jax.tree.map_with_path(lambda path, p: lax.stop_gradient(p) if is_frozen(path, prefix) else p, model)


def leave_out(optimizer: optax.GradientTransformation, prefix: str | None) -> optax.GradientTransformation:
    """The optimiser for all parameters but the frozen ones, which have no state and no weight decay."""
    if prefix is None:
        return optimizer

    def kinds(params):
        return jax.tree.map_with_path(lambda path, _: "frozen" if is_frozen(path, prefix) else "learnt", params)

    return optax.partition({"learnt": optimizer, "frozen": optax.set_to_zero()}, kinds)


def check(model: nnx.Module, prefix: str | None) -> None:
    """UserError if no parameter's path begins with the prefix, or every one does."""
    if prefix is None:
        return
    names = [_name(path) for path, _ in jax.tree.leaves_with_path(parameters(model))]
    frozen = sum(name.startswith(prefix) for name in names)
    if frozen in (0, len(names)):
        first = sorted({name.split(".")[0] for name in names})
        which = "no parameter's" if frozen == 0 else "every parameter's"
        raise UserError(
            f"--train.frozen={prefix}: {which} path begins so; choose the beginning of some, which start with"
            f" {', '.join(first)}."
        )


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path).lstrip(".")
