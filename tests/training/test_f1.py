"""F1, the score of class 1 where there are two."""

import numpy as np

from moejax.training.evaluate import f1


def test_f1_by_hand():
    predicted = np.array([1, 1, 1, 0, 0], bool)
    true = np.array([1, 0, 1, 1, 0], bool)
    assert f1(predicted, true) == 2 / 3  # two right of three predicted and of three true
    assert f1(~true, true) == 0
    assert f1(np.zeros(3, bool), np.zeros(3, bool)) == 0
