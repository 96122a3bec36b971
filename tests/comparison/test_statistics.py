"""Wilson's interval and McNemar's exact test: on cases worked by hand, and by their laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.comparison.statistics import interval, mcnemar

Z2 = 1.959963984540054**2  # of the 95 % of a normal distribution
COUNT = st.integers(0, 60)


def test_wilson_at_the_ends():
    """0 of 10 right: from 0 to z² / (n + z²)."""
    assert interval(0, 10) == pytest.approx((0, Z2 / (10 + Z2)))
    assert interval(10, 10) == pytest.approx((10 / (10 + Z2), 1))


def test_wilson_as_published():
    """Newcombe (1998), table I: 81 of 263."""
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(COUNT, COUNT)
def test_wilson_holds_the_share_and_solves_its_equation(right, wrong):
    n = right + wrong
    if n == 0:
        return
    share = right / n
    for bound in interval(right, n):
        assert (share - bound) ** 2 == pytest.approx(Z2 * bound * (1 - bound) / n, abs=1e-9)


def test_mcnemar_by_hand():
    """1 and 9: twice the chance of at most one head in ten throws, (1 + 10) / 1024."""
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(0, 0) == 1.0


@given(COUNT, COUNT)
def test_mcnemar_is_twice_the_smaller_tail(b, c):
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(b, c) == mcnemar(c, b)
