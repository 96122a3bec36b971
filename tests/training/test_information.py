"""How much of the routing a token's position, content and label tell: by hand, and of routers whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import moejax
from moejax.models.pixels import pixels_of_tokens
from moejax.training.evaluate import evaluate
from moejax.training.information import CONTENTS, Kinds, add, kinds_of_tokens, tabulate

E = 4


def test_tables_by_hand_and_batch_by_batch():
    # Two examples, one layer, two tokens, two experts: the position tells the expert, the label nothing.
    shares = jnp.array([[[[1.0, 0], [0, 1]]], [[[1, 0], [0.5, 0.5]]]])
    kinds = {
        "position": Kinds(np.array([[0, 1], [0, 1]]), 2),
        "label": Kinds(np.array([[1, 1], [0, 0]]), 2),
    }
    tables = tabulate(shares, kinds)
    np.testing.assert_allclose(tables.shares["position"], [[[2, 0], [0.5, 1.5]]])
    np.testing.assert_allclose(tables.shares["label"], [[[1.5, 0.5], [1, 1]]])
    np.testing.assert_allclose(tables.entropy, [np.log(2)], rtol=1e-6)
    halves = [
        tabulate(shares[i : i + 1], {name: Kinds(of[i : i + 1], n) for name, (of, n) in kinds.items()}) for i in (0, 1)
    ]
    for one, other in zip(jax.tree.leaves(tables), jax.tree.leaves(add(halves)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    # H(expert) = entropy of 5/8; within a token ln 2 / 4 on average; given the position, half of entropy of 3/4.
    entropy = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
    want = (entropy(5 / 8) - entropy(3 / 4) / 2) / (entropy(5 / 8) - np.log(2) / 4)
    np.testing.assert_allclose(tables.explained()["position"], [want], rtol=1e-4)


class Tiny(nnx.Module):
    """One sparse layer over the sixteen cells of an image; padding where a cell is dark."""

    tokens, grid = 16, (4, 4)

    def __init__(self, router: str, k: int):
        make_expert = lambda rngs: moejax.MLP(49, 4, rngs=rngs)  # noqa: E731
        self.moe = moejax.SparseMoE(49, E, make_expert, k=k, router=router, dispatch="grouped", rngs=nnx.Rngs(0))

    def __call__(self, batch, *, train, key=None):
        x = pixels_of_tokens(batch["image"], self.grid)
        y, routing = self.moe(x - x.mean(-1, keepdims=True), train=train, mask=x.any(-1))
        return jnp.repeat(y.sum((1, 2))[:, None], 10, axis=1), (routing,)

    def content(self, batch):
        x = pixels_of_tokens(batch["image"], self.grid)
        return jnp.where(x.any(-1, keepdims=True), x, jnp.nan)


def images(n: int = 300) -> dict[str, np.ndarray]:
    """Each cell one of six patterns, a little brighter or darker, or dark, wherever it lies."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (7, 7, 7)) * (np.arange(7) > 0)[:, None, None]
    cells = patterns[rng.integers(0, 7, (n, 4, 4))] * rng.uniform(0.95, 1.0, (n, 4, 4, 1, 1))
    image = cells.swapaxes(2, 3).reshape(n, 28, 28).astype(np.uint8)
    return {"image": image, "label": rng.integers(0, 10, n).astype(np.int32)}


def explained(router: str, k: int) -> dict[str, float]:
    data, model = images(), Tiny(router, k)
    result = evaluate(model, data, 200, kinds=kinds_of_tokens(model, data, 10, 200))
    return {name: float(values[0]) for name, values in result.tables.explained().items()}


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
def test_hash_goes_by_position_and_random_by_nothing(k):
    by = explained("hash", k)
    assert by["position"] > 0.999
    assert max(by["content"], by["label"]) < 0.03
    assert max(explained("random", k).values()) < 0.03


def test_a_router_that_sees_the_token_goes_by_its_content():
    by = explained("softmax_top_k", 1)
    assert by["content"] > 0.9
    assert max(by["position"], by["label"]) < 0.03


def test_padding_counts_nowhere():
    data, model = images(), Tiny("hash", 1)
    dark = ~data["image"].reshape(-1, 4, 7, 4, 7).any((2, 4)).reshape(-1, 16)
    kinds = kinds_of_tokens(model, data, 10, 128)
    assert (kinds["content"].of[dark] == -1).all()
    assert set(np.unique(kinds["content"].of[~dark])) <= set(range(CONTENTS))
    shares = evaluate(model, data, 128, kinds=kinds).tables.shares
    for table in shares.values():
        np.testing.assert_allclose(table.sum(), (~dark).sum(), rtol=1e-5)
    np.testing.assert_allclose(shares["position"][0].sum(1), (~dark).sum(0), rtol=1e-5)


def test_cells_of_an_image_that_the_grid_does_not_divide():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 0, 0], image[0, 27, 27], image[0, 5, 14] = 255, 51, 102
    # Cells of 6 × 6 pixels, with a border of one pixel around the image.
    cells = np.asarray(pixels_of_tokens(jnp.asarray(image), (5, 5)))
    assert cells.shape == (1, 25, 36)
    assert cells[0, 0, 7] == 1
    np.testing.assert_allclose(cells[0, 24, 28], 0.2)
    np.testing.assert_allclose(cells[0, 7, 3], 0.4)
    np.testing.assert_allclose(cells.sum(), 1.6, rtol=1e-6)
