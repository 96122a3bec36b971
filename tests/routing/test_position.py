"""Position in expert: who stands before whom in the line for an expert."""

from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moejax import routing

position_in_expert = jax.jit(routing.position_in_expert, static_argnums=1)
rows_of_three_lengths = st.sampled_from([1, 32, 75]).flatmap(
    lambda n: hnp.arrays(np.int32, (2, n), elements=st.integers(-1, 3))
)


def in_a_loop(experts):
    """One row, choice by choice."""
    seen = Counter()
    for expert in experts.tolist():
        yield seen[expert]
        seen[expert] += 1


def test_each_row_is_a_line_of_its_own():
    got = position_in_expert(np.array([[0, 1, 0, 0, 1], [1, 1, 1, 0, 1]], np.int32), 2)
    np.testing.assert_array_equal(got, [[0, 0, 1, 2, 1], [0, 1, 2, 0, 3]])


def test_whose_expert_is_negative_stands_in_no_one_s_way():
    got = position_in_expert(np.array([[2, -1, 2, -1, -1, 2]], np.int32), 3)
    np.testing.assert_array_equal(got[0, np.array([0, 2, 5])], [0, 1, 2])


@settings(max_examples=50)
@given(rows_of_three_lengths)
def test_any_choices_within_a_block_and_across_blocks(experts):
    want = [list(in_a_loop(row)) for row in experts]
    someone = experts >= 0
    np.testing.assert_array_equal(position_in_expert(experts, 4)[someone], np.array(want)[someone])


@pytest.mark.parametrize("num_experts", [1, 64])
def test_a_long_line(num_experts):
    experts = np.random.default_rng(0).integers(0, num_experts, 5000).astype(np.int32)
    np.testing.assert_array_equal(position_in_expert(experts[None], num_experts)[0], list(in_a_loop(experts)))
