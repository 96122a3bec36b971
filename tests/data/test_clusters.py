"""Synthetic clusters: what an example is made of, taken apart again, and what a seed fixes."""

import numpy as np
import pytest

from moejax.data import clusters, load
from moejax.errors import UserError

N = 400


def drawn(name, seed=0, n=N):
    basis = clusters.directions(seed)
    return basis, clusters.draw(clusters.SETTINGS[name], basis, np.random.default_rng(seed), n)


def test_the_eight_directions_are_orthonormal_and_the_seeds():
    basis = clusters.directions(3)
    np.testing.assert_allclose(basis @ basis.T, np.eye(8), atol=1e-12)
    np.testing.assert_array_equal(basis, clusters.directions(3))
    assert np.abs(basis - clusters.directions(4)).max() > 0.01


@pytest.mark.parametrize("name", clusters.SETTINGS)
def test_an_example_is_a_feature_a_centre_another_s_feature_and_noise(name):
    setting = clusters.SETTINGS[name]
    basis, data = drawn(name)
    signs, places = [], []
    for patches, label, cluster in zip(data["patches"] / 10, data["label"], data["cluster"], strict=True):
        along = patches.astype(np.float64) @ basis.T  # patch, direction
        pure = [p for p in range(4) if np.isclose((along[p] ** 2).sum(), (patches[p] ** 2).sum(), rtol=1e-4)]
        assert len(pure) == 3  # the fourth is noise in all 50 directions
        found = {int(np.abs(along[p]).argmax()): along[p][np.abs(along[p]).argmax()] for p in pure}
        feature, center = found.pop(cluster), found.pop(4 + cluster)
        ((other, noise),) = found.items()
        assert other < 4
        assert np.sign(feature) == 2 * label - 1
        assert setting.feature[0] <= abs(feature) * 1.0001
        assert abs(feature) <= setting.feature[1] * 1.0001
        assert setting.center[0] * 0.9999 <= center <= setting.center[1] * 1.0001
        assert setting.feature_noise[0] * 0.9999 <= abs(noise) <= setting.feature_noise[1] * 1.0001
        signs.append(np.sign(noise) == np.sign(feature))
        places.append(({0, 1, 2, 3} - set(pure)).pop())
    # 400 throws: deviations .025 and .022
    assert abs(np.mean(signs) - 0.5) < 0.1
    np.testing.assert_allclose(np.bincount(places) / N, np.full(4, 0.25), atol=0.09)


def test_the_normal_noise_has_its_variance():
    # Its squared length is σ² on average, with a deviation of σ² · √(2 / 50) / √400 over the examples.
    for name, sigma in (("s1", 1), ("s2", 2)):
        basis, data = drawn(name)
        patches = data["patches"].astype(np.float64) / 10
        outside = patches - patches @ basis.T @ basis  # 42 of the 50 directions
        np.testing.assert_allclose((outside**2).sum((1, 2)).mean(), sigma**2 * 42 / 50, rtol=0.05)


def test_classes_and_clusters_are_even():
    _, data = drawn("s3", n=4000)
    np.testing.assert_allclose(data["label"].mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(np.bincount(data["cluster"]) / 4000, np.full(4, 0.25), atol=0.04)
    assert {k: v.dtype for k, v in data.items()} == {"patches": "float32", "label": "int32", "cluster": "int32"}


def test_a_data_set_is_its_seeds_and_validation_changes_nothing_else(monkeypatch):
    monkeypatch.setattr(clusters, "TRAIN", 300)
    monkeypatch.setattr(clusters, "TEST", 200)
    one, other = (load("clusters", setting="s2", seed=5, validation=v) for v in (0, 100))
    assert [len(s["label"]) for s in (other.train, other.test, other.validation)] == [300, 200, 100]
    assert len(one.validation["label"]) == 0
    for name in one.train:
        np.testing.assert_array_equal(one.train[name], other.train[name])
        np.testing.assert_array_equal(one.test[name], other.test[name])
    assert np.abs(other.validation["patches"][:100] - other.train["patches"][:100]).max() > 1
    assert np.abs(one.train["patches"] - load("clusters", setting="s2", seed=6).train["patches"]).max() > 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"setting": "s5"}, r"^data\.setting is s5; it must be one of s1, s2, s3, s4, theorem\."),
        ({"validation": -1}, r"^data\.validation is -1; it must be a whole number from 0 to 1,000,000\."),
        ({"source": "hf"}, r"--data\.source is no option of --data\.name=clusters, which has setting, validation"),
        ({"dir": "x"}, r"--data\.dir is no option of --data\.name=clusters, which has setting, validation"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        load("clusters", **arguments)
