"""Grey images, standardised."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of the MNIST training images' pixels, scaled to 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081


def standardized(images: Num[Array, "b i j"]) -> Float[Array, "b i j"]:
    """Pixels of 0 to 255, integer or float, standardised by MNIST's mean and deviation; float32."""
    return (images.astype(jnp.float32) / 255 - _MEAN) / _DEVIATION
