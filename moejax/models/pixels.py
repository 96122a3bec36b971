"""Images, grey [b, i, j] or in colour [b, i, j, 3]: standardised, coarser, and cut into what each token covers."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of the MNIST training images' pixels, scaled to 0..1.
_MEAN, _DEVIATION = 0.1307, 0.3081


def channels(image_shape: tuple[int, ...]) -> int:
    """Numbers of a pixel: 1 where an image's shape is (i, j), c where it is (i, j, c)."""
    return image_shape[2] if len(image_shape) == 3 else 1


def standardized(images: Num[Array, "b i j *c"]) -> Float[Array, "b i j *c"]:
    """Pixels of 0 to 255, integer or float, standardised by MNIST's mean and deviation; float32."""
    return (images.astype(jnp.float32) / 255 - _MEAN) / _DEVIATION


def pixels_of_tokens(images: Num[Array, "b i j *c"], grid: tuple[int, int]) -> Float[Array, "b t pixels"]:
    """The pixels, 0 to 1, of a grid of tokens' own cells of an image, which is padded to whole cells."""
    (b, i, j, *c), (rows, columns) = images.shape, grid
    high, wide = -(-i // rows), -(-j // columns)
    pad = [(n // 2, n - n // 2) for n in (rows * high - i, columns * wide - j)]
    padded = jnp.pad(images.astype(jnp.float32) / 255, ((0, 0), *pad, *((0, 0) for _ in c)))
    cells = padded.reshape(b, rows, high, columns, wide, *c).swapaxes(2, 3)
    return cells.reshape(b, rows * columns, -1)


def pooled(images: Float[Array, "b i j *c"], side: int) -> Float[Array, "b i2 j2 *c"]:
    """The means of squares of `side` × `side` pixels, which must divide the image evenly."""
    b, i, j, *c = images.shape
    return images.reshape(b, i // side, side, j // side, side, *c).mean((2, 4))
