"""Grey images: standardised, coarser, and cut into what each token covers."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of the MNIST training images' pixels, scaled to 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081


def standardized(images: Num[Array, "b i j"]) -> Float[Array, "b i j"]:
    """Pixels of 0 to 255, integer or float, standardised by MNIST's mean and deviation; float32."""
    return (images.astype(jnp.float32) / 255 - _MEAN) / _DEVIATION


def pixels_of_tokens(images: Num[Array, "b i j"], grid: tuple[int, int]) -> Float[Array, "b t pixels"]:
    """The pixels, 0 to 1, of a grid of tokens' own cells of an image, which is padded to whole cells."""
    (b, i, j), (rows, columns) = images.shape, grid
    high, wide = -(-i // rows), -(-j // columns)
    pad = [(n // 2, n - n // 2) for n in (rows * high - i, columns * wide - j)]
    cells = jnp.pad(images.astype(jnp.float32) / 255, ((0, 0), *pad)).reshape(b, rows, high, columns, wide)
    return cells.swapaxes(2, 3).reshape(b, rows * columns, high * wide)


def pooled(images: Float[Array, "b i j"], side: int) -> Float[Array, "b i2 j2"]:
    """The means of squares of `side` × `side` pixels, which must divide the image evenly."""
    b, i, j = images.shape
    return images.reshape(b, i // side, side, j // side, side).mean((2, 4))
