"""Grey images as numbers that a network likes."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of the pixels of the MNIST training images, in units of 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081


def standardized(images: Num[Array, "b i j"]) -> Float[Array, "b i j"]:
    """Pixels of 0 to 255, integer or float, with the mean and deviation of MNIST's taken out; float32."""
    return (images.astype(jnp.float32) / 255 - _MEAN) / _DEVIATION
