"""Augmentation on the device: one random map of the plane per image and a random blur, pure functions of a key.

Images are grey [b, i, j] or in colour [b, i, j, c]; what is drawn is the same for all channels of one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num, UInt8

_TRIES = 10  # of a crop to fit, as many as torchvision's
_RATIO = math.log(4 / 3)  # a crop's width over its height is within 3/4 and 4/3, torchvision's default
_SMOOTH = 4.0  # pixels: the deviation of the Gaussian that smooths an elastic field (Simard et al. 2003)


def augment(
    key: Key[Array, ""],
    images: UInt8[Array, "b i j *c"],
    *,
    shift: float = 0.0,
    rotate: float = 0.0,
    zoom: float = 0.0,
    elastic: float = 0.0,
    crop: float = 0.0,
    blur: float = 0.0,
) -> Num[Array, "b i j *c"]:
    """What `random_warp` does, then what `random_blur` does; what is 0 costs nothing. Values stay 0 to 255."""
    if shift or rotate or zoom or elastic or crop:
        images = random_warp(key, images, shift=shift, rotate=rotate, zoom=zoom, elastic=elastic, crop=crop)
    return random_blur(jax.random.fold_in(key, 2), images, blur) if blur else images


def random_warp(
    key: Key[Array, ""],
    images: UInt8[Array, "b i j *c"],
    *,
    shift: float = 0.0,
    rotate: float = 0.0,
    zoom: float = 0.0,
    elastic: float = 0.0,
    crop: float = 0.0,
) -> Float[Array, "b i j *c"]:
    """Move by up to `shift` pixels, turn by up to `rotate` degrees, scale by a factor within 1 ± `zoom`, bend by
    `smooth_field` times `elastic`; then see only a random part of the result, as large as the whole (`random_part`
    with `crop`).

    The first three are drawn uniformly per image. Pixels are interpolated bilinearly and 0 from outside; values stay 0
    to 255.
    """
    b, i, j = images.shape[:3]
    draw = jax.random.uniform(key, (b, 4), minval=-1, maxval=1)  # one draw compiles faster than three
    move, angle, size = shift * draw[:, :2], jnp.deg2rad(rotate) * draw[:, 2], 1 + zoom * draw[:, 3]
    part, corner = jnp.ones((b, 2)), jnp.zeros((b, 2))
    if crop:
        part, corner = random_part(jax.random.fold_in(key, 1), b, crop)
    bend = jnp.zeros((b, 1, 1, 1))
    if elastic:
        bend = elastic * smooth_field(jax.random.fold_in(key, 3), b, i, j)

    def one(image, move, angle, size, part, corner, bend):
        # Rows and columns from the image's centre; the part's centre is half of what it leaves over away from there.
        middle = (corner + part / 2 - 0.5) * jnp.array([i, j])
        y, x = (part[axis] * (jnp.arange(n) - (n - 1) / 2) + middle[axis] for axis, n in enumerate((i, j)))
        y, x = jnp.meshgrid(y, x, indexing="ij")
        sin, cos = jnp.sin(angle) / size, jnp.cos(angle) / size
        source = jnp.stack([cos * y - sin * x + move[0] + (i - 1) / 2, sin * y + cos * x + move[1] + (j - 1) / 2])
        source = source + bend

        def sampled(channel):
            return jax.scipy.ndimage.map_coordinates(channel.astype(jnp.float32), source, order=1, mode="constant")

        return sampled(image) if image.ndim == 2 else jax.vmap(sampled, -1, -1)(image)

    return jax.vmap(one)(images, move, angle, size, part, corner, bend)


def smooth_field(key: Key[Array, ""], count: int, i: int, j: int) -> Float[Array, "b 2 i j"]:
    """For each of `count` images, how far down and right each pixel's source moves: smooth, normal with deviation 1.

    Normal noise under a Gaussian of 4 pixels (Simard, Steinkraus & Platt 2003), of the same deviation everywhere.
    """

    def gaussian(n: int) -> Float[Array, "n n"]:
        weights = jnp.exp(-0.5 * ((jnp.arange(n)[:, None] - jnp.arange(n)[None]) / _SMOOTH) ** 2)
        return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)

    noise = jax.random.normal(key, (count, 2, i, j))
    return jnp.einsum("is,jt,bcst->bcij", gaussian(i), gaussian(j), noise)


def random_part(key: Key[Array, ""], count: int, crop: float) -> tuple[Float[Array, "b 2"], Float[Array, "b 2"]]:
    """Height and width of a random part of each of `count` images, and where it begins, as shares of the image's.

    torchvision's RandomResizedCrop without rounding to whole pixels: an area uniform in 1 - `crop` to 1, a ratio of the
    sides log-uniform in 3/4 to 4/3, drawn again while one side does not fit; after 10 vain draws the whole image.
    """
    shape_key, corner_key = jax.random.split(key)
    draw = jax.random.uniform(shape_key, (count, _TRIES, 2), minval=-1, maxval=1)
    area, ratio = 1 - crop * (1 + draw[..., 0]) / 2, jnp.exp(_RATIO * draw[..., 1])
    sides = jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=-1))
    fits = (sides <= 1).all(-1)
    first = jnp.take_along_axis(sides, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    part = jnp.where(fits.any(1)[:, None], first, 1.0)
    return part, (1 - part) * jax.random.uniform(corner_key, (count, 2), minval=0, maxval=1)


def random_blur(key: Key[Array, ""], images: Num[Array, "b i j *c"], blur: float) -> Float[Array, "b i j *c"]:
    """Blur each image by a 3 × 3 Gaussian, the border mirrored (torchvision's GaussianBlur).

    The deviation is uniform in 0.1 to `blur` pixels (torchvision: 2).
    """
    of_image = (len(images), *[1] * (images.ndim - 1))
    deviation = jax.random.uniform(key, of_image, minval=min(0.1, blur), maxval=blur)
    side = jnp.exp(-0.5 / deviation**2)  # weight of a neighbour before the three are scaled to sum to 1
    x = images.astype(jnp.float32)
    for axis in (1, 2):
        near = jnp.pad(x, [(int(axis == a),) * 2 for a in range(x.ndim)], mode="reflect")
        first, last = (jax.lax.slice_in_dim(near, start, start + x.shape[axis], axis=axis) for start in (0, 2))
        x = (x + side * (first + last)) / (1 + 2 * side)
    return x
