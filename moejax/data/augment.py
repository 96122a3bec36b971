"""Augmentation on the device: one random affine map per image, a pure function of a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8


def random_affine(
    key: Key[Array, ""],
    images: UInt8[Array, "b i j"],
    *,
    shift: float = 0.0,
    rotate: float = 0.0,
    zoom: float = 0.0,
) -> Float[Array, "b i j"]:
    """Move by up to `shift` pixels, turn by up to `rotate` degrees, scale by a factor within 1 ± `zoom`.

    Each is drawn uniformly per image; pixels are interpolated bilinearly and 0 from outside. Values stay 0 to 255.
    """
    b, i, j = images.shape
    draw = jax.random.uniform(key, (b, 4), minval=-1, maxval=1)  # one draw compiles faster than three
    move, angle, size = shift * draw[:, :2], jnp.deg2rad(rotate) * draw[:, 2], 1 + zoom * draw[:, 3]

    def one(image, move, angle, size):
        y, x = jnp.meshgrid(jnp.arange(i) - (i - 1) / 2, jnp.arange(j) - (j - 1) / 2, indexing="ij")
        sin, cos = jnp.sin(angle) / size, jnp.cos(angle) / size
        source = jnp.stack([cos * y - sin * x + move[0] + (i - 1) / 2, sin * y + cos * x + move[1] + (j - 1) / 2])
        return jax.scipy.ndimage.map_coordinates(image.astype(jnp.float32), source, order=1, mode="constant")

    return jax.vmap(one)(images, move, angle, size)
