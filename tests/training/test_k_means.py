"""k-means by hand, on clusters that can be seen, and on too few different rows."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from moejax.training.k_means import k_means, nearest


def test_nearest_by_hand():
    centres = np.array([[0.0, 0], [4, 0]])
    assert nearest(np.array([[1.0, 5], [3, 5], [2, 5]]), centres).tolist() == [0, 1, 0]  # of two the first


def test_two_pairs_of_points_have_their_means_as_centres():
    x = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2]])
    found = k_means(x, 2)
    assert sorted(found.tolist()) == [[0, 1], [10, 1]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_separate_clusters_are_found(seed):
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 5, 400)
    x = (8 * rng.normal(size=(5, 7))[of] + rng.normal(size=(400, 7))).astype(np.float32)
    found = nearest(x, k_means(x, 5, seed=seed))
    assert normalized_mutual_info_score(of, found) > 0.85  # two centres may fall into one cluster
    np.testing.assert_array_equal(found, nearest(x, k_means(x, 5, seed=seed)))


def test_noise_is_cut_as_well_as_scikit_learn_cuts_it():
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    centres = k_means(x, 8, steps=100)
    mine = ((x - centres[nearest(x, centres)]) ** 2).sum()
    assert mine < 1.05 * KMeans(8, n_init=1, random_state=0).fit(x).inertia_


def test_as_many_centres_as_different_rows():
    x = np.repeat(np.array([[1.0, 2], [3, 4], [5, 6]], np.float32), 10, axis=0)
    assert sorted(k_means(x, 32).tolist()) == [[1, 2], [3, 4], [5, 6]]
