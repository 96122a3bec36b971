"""What a run keeps of its routing stays small, however long it goes on, and goes on where it was."""

import numpy as np
import pytest

from moejax.files import packed
from moejax.training import film, history
from moejax.training.film import Film
from moejax.training.history import RoutingHistory
from moejax.training.objective import StepMetrics


@pytest.fixture
def four_rows(monkeypatch):
    monkeypatch.setattr(history, "_ROWS", 4)


def chunk(number):
    """Two steps of one layer and two experts."""
    load = np.array([[[number, 0.0]], [[number, 2.0]]], np.float32)
    scalar, layer = load[:, 0, 0], load[..., 0]
    return StepMetrics(scalar, scalar, scalar, load, layer, layer, layer)


def after(chunks, begun=None):
    kept = begun or RoutingHistory()
    for number in chunks:
        kept.append(2 * number, chunk(number))
    return kept


@pytest.mark.parametrize(
    ("chunks", "steps", "load"),
    [
        (3, [2, 4, 6], [1, 2, 3]),
        (4, [4, 8], [1.5, 3.5]),
        (5, [4, 8, 10], [1.5, 3.5, 5]),
        (7, [4, 8, 12, 14], [1.5, 3.5, 5.5, 7]),
        (8, [8, 16], [2.5, 6.5]),
        (15, [8, 16, 24, 30], [2.5, 6.5, 10.5, 14]),
    ],
)
def test_rows_are_means_of_ever_more_chunks(four_rows, chunks, steps, load):
    arrays = after(range(1, chunks + 1)).to_arrays()
    np.testing.assert_array_equal(arrays["step"], steps)
    np.testing.assert_allclose(arrays["load"][:, 0, 0], load)
    np.testing.assert_array_equal(arrays["load"][:, 0, 1], np.ones(len(load)))
    assert arrays["chunks"].sum() == chunks


@pytest.mark.parametrize("stop", range(20))
def test_a_film_that_goes_on_is_the_same_and_has_ever_more_chunks_between_frames(monkeypatch, stop):
    monkeypatch.setattr(film, "_MOST", 4)

    def shoot(chunks, shot):
        for number in chunks:
            if shot.wants():
                shot.append(number, np.full((1, 1, 1), number, np.int16))
        return shot

    begun = Film.from_arrays(shoot(range(1, stop + 1), Film()).to_arrays())
    arrays = shoot(range(stop + 1, 21), begun).to_arrays()
    np.testing.assert_array_equal(arrays["film_step"], [1, 9, 17])
    np.testing.assert_array_equal(arrays["film"].ravel(), [1, 9, 17])


@pytest.mark.parametrize("stop", range(20))
def test_a_history_that_goes_on_is_the_same_to_the_bit(four_rows, stop):
    whole = after(range(1, 21)).to_arrays()
    begun = RoutingHistory.from_bytes(packed(after(range(1, stop + 1)).to_arrays()))
    for name, array in after(range(stop + 1, 21), begun).to_arrays().items():
        np.testing.assert_array_equal(array, whole[name])


def test_a_history_of_an_earlier_version_has_a_row_for_each_chunk(four_rows):
    arrays = after(range(1, 4)).to_arrays()
    del arrays["chunks"]
    np.testing.assert_array_equal(after([4], RoutingHistory.from_bytes(packed(arrays))).to_arrays()["step"], [4, 8])
