"""The grouped matrix product: against a loop over rows for runs of every length, and its derivatives of both orders."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from reference import draw
from seldom import slow_but_for

from moejax.kernels import blas_threads, cpu_blas, cpu_blocks, ragged
from moejax.kernels import grouped_matmul as front
from moejax.kernels.groups import Groups
from moejax.kernels.multilinear import Lowering
from moejax.widening import wide

few = settings(max_examples=25)
E, D, H = 5, 3, 4


def grouped_matmul(x, w, sizes, transposed=False):
    return front.grouped_matmul(x, w, Groups.of(sizes), transposed)


def grouped_outer(x, dy, sizes):
    return front.grouped_outer(x, dy, Groups.of(sizes))


def rows_of_groups(bias, sizes, rows):
    return front.rows_of_groups(bias, Groups.of(sizes), rows)


matmul = jax.jit(grouped_matmul, static_argnums=3)
outer = jax.jit(grouped_outer)


# Rows, and runs of them for five experts. Blocks are of 16 to 512 rows.
CASES = {
    "even": (600, [120, 120, 120, 120, 120]),
    "one has all": (600, [0, 600, 0, 0, 0]),
    "nobody has any": (600, [0, 0, 0, 0, 0]),
    "rows left over": (600, [100, 0, 350, 0, 20]),
    "more than the largest block": (600, [257, 1, 0, 16, 326]),
    "twice the largest block and a rest at the end": (600, [3, 0, 0, 0, 597]),
    "whole blocks only": (600, [256, 32, 16, 256, 0]),
    "a rest that no block fits behind": (600, [0, 0, 0, 301, 299]),
    "fewer rows than the smallest block": (7, [2, 0, 4, 0, 1]),
    "fewer rows and some left over": (7, [0, 3, 0, 2, 0]),
    "one row": (1, [0, 0, 1, 0, 0]),
    "the smallest block": (16, [5, 0, 0, 11, 0]),
    "no multiple of a block": (53, [17, 0, 31, 2, 3]),
}
cases = pytest.mark.parametrize(("rows", "sizes"), CASES.values(), ids=CASES)


def int32(sizes):
    return jnp.asarray(sizes, jnp.int32)


def assert_close(got, want):
    # float32 sums of D terms, or of up to 600 rows
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def dense(x, w, sizes):
    """The same function as one product with masks, for JAX to differentiate."""
    ends = jnp.cumsum(sizes)
    rows = jnp.arange(len(x))
    mine = (rows[:, None] >= (ends - sizes)[None]) & (rows[:, None] < ends[None])
    return jnp.einsum("re,rd,edh->rh", mine.astype(x.dtype), x, w)


def of_sizes(kernels):
    return (
        lambda x, w, sizes, transposed: kernels.matmul(x, w, Groups.of(sizes), transposed),
        lambda x, dy, sizes: kernels.outer(x, dy, Groups.of(sizes)),
    )


PATHS = ((grouped_matmul, grouped_outer), *map(of_sizes, (cpu_blas, cpu_blocks, ragged)))


@jax.jit
def all_products(x, w, wt, dy, sizes):
    """On every path."""
    return [(product(x, w, sizes, False), product(x, wt, sizes, True), gram(x, dy, sizes)) for product, gram in PATHS]


def by_loops(x, w, wt, dy, sizes):
    return (
        reference.grouped_matmul(x, w, sizes),
        reference.grouped_matmul(x, wt.swapaxes(1, 2), sizes),
        reference.grouped_outer(x, dy, sizes),
    )


@cases
def test_products_equal_a_loop_over_rows_on_every_path(rows, sizes):
    x, w, wt, dy = draw(0, rows, D), draw(1, E, D, H), draw(2, E, H, D), draw(3, rows, H)
    exact = (np.asarray(a, np.float64) for a in (x, w, wt, dy))
    want, want_transposed, want_outer = by_loops(*exact, sizes)
    for y, y_transposed, dw in all_products(x, w, wt, dy, int32(sizes)):
        got, got_outer = np.asarray(y), np.asarray(dw)
        assert_close(got, want)
        assert_close(y_transposed, want_transposed)
        assert_close(got_outer, want_outer)
        np.testing.assert_array_equal(got[sum(sizes) :], 0)
        np.testing.assert_array_equal(got_outer[np.equal(sizes, 0)], 0)


@pytest.mark.parametrize("sizes", [[], [3], [7], [2, 15], [5, 5, 5], [0, 1, 2, 3], [15]])
def test_few_rows_equal_a_loop_over_rows(sizes, units, monkeypatch):
    # Of sixteen experts those named have a row each, of four rows.
    sizes = np.bincount(sizes, minlength=16)
    x, w, wt, dy = draw(0, 4, D), draw(1, 16, D, H), draw(2, 16, H, D), draw(3, 4, H)
    want = by_loops(*(np.asarray(a, np.float64) for a in (x, w, wt, dy)), sizes)
    for got in all_products(x, w, wt, dy, int32(sizes)):
        jax.tree.map(assert_close, got, want)
    lowering = Lowering(exported=False, devices=1)
    assert front.on_cpu(lowering, x, w) is cpu_blocks
    assert front.on_cpu(lowering, jnp.ones((9, D)), w) is cpu_blas
    monkeypatch.setattr(front, "LARGE", D * H)
    assert front.on_cpu(lowering, x, w) is cpu_blas
    assert front.on_cpu(lowering, *(a.astype(jnp.bfloat16) for a in (x, w))) is cpu_blocks


# int8: row by row, in blocks, and as floats; bfloat16: a branch for each matrix.
FEW = ((3, 16, "int8"), (40, 5, "int8"), (200, 5, "int8"), (3, 16, "bfloat16"))
NARROW = [(*sizes, dtype) for sizes in ((3, 16), (7, 16), (40, 5), (200, 5)) for dtype in ("int8", "bfloat16")]


@pytest.mark.parametrize(("rows", "experts", "dtype"), slow_but_for(NARROW, *FEW))
def test_narrow_matrices_equal_a_loop_over_rows_and_so_do_derivatives_by_rows(rows, experts, dtype):
    d, rng = 300, np.random.default_rng(rows)  # more than a piece of int8
    w, x, dy = rng.integers(-9, 9, (experts, d, H)), rng.integers(-9, 9, (rows, d)), rng.integers(-9, 9, (rows, H))
    sizes = np.bincount(rng.integers(0, experts, rows - 1), minlength=experts)
    narrow, of_rows = jnp.asarray(w, dtype), "float32" if dtype == "int8" else dtype

    @jax.jit
    def products(x, dy, w, sizes):
        y, by_rows = jax.vjp(lambda x: grouped_matmul(x, w, sizes), x)
        return y, *by_rows(dy)

    got = products(jnp.asarray(x, of_rows), jnp.asarray(dy, of_rows), narrow, int32(sizes))
    w = np.float64(w)
    want = reference.grouped_matmul(np.float64(x), w, sizes), reference.grouped_matmul(dy, w.swapaxes(1, 2), sizes)
    for y, exact in zip(got, want, strict=True):
        assert y.dtype == of_rows
        np.testing.assert_array_equal(y, exact.astype(y.dtype))  # whole numbers: nothing but the result is rounded


@few
@given(st.lists(st.integers(0, 300), min_size=E, max_size=E))
def test_products_equal_a_loop_for_any_runs(sizes):
    sizes = [min(size, max(0, 400 - sum(sizes[:e]))) for e, size in enumerate(sizes)]
    x, w, dy = (np.asarray(a) for a in (draw(0, 400, D), draw(1, E, D, H), draw(2, 400, H)))
    got = np.asarray(matmul(x, w, int32(sizes)))
    assert_close(got, reference.grouped_matmul(x, w, sizes))
    np.testing.assert_array_equal(got[sum(sizes) :], 0)
    assert_close(outer(x, dy, int32(sizes)), reference.grouped_outer(x, dy, sizes))


@jax.jit(static_argnums=0)
def first_and_second(product, x, w, sizes, dx, dw):
    """Gradients of a curved function of the product, and their slopes along (dx, dw)."""

    def f(x, w):
        return jnp.sin(product(x, w, sizes)).sum()

    def slope(x, w):
        by_x, by_w = jax.grad(f, argnums=(0, 1))(x, w)
        return jnp.vdot(by_x, dx) + jnp.vdot(by_w, dw)

    return jax.grad(f, argnums=(0, 1))(x, w), jax.grad(slope, argnums=(0, 1))(x, w)


def transposed(x, w, sizes):
    return grouped_matmul(x, w.swapaxes(1, 2), sizes, True)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        (grouped_matmul, "rows left over"),
        (grouped_matmul, "fewer rows than the smallest block"),
        (transposed, "no multiple of a block"),
    ],
)
def test_first_and_second_derivatives_equal_those_of_the_masked_product(product, name):
    rows, sizes = CASES[name]
    arguments = draw(0, rows, D), draw(1, E, D, H), int32(sizes), draw(2, rows, D), draw(3, E, D, H)
    got, want = first_and_second(product, *arguments), first_and_second(dense, *arguments)
    jax.tree.map(assert_close, got, want)
    for _, by_w in got:
        np.testing.assert_array_equal(np.asarray(by_w)[np.equal(sizes, 0)], 0)
    for by_x, _ in got:
        np.testing.assert_array_equal(by_x[sum(sizes) :], 0)


def test_outer_products_have_derivatives_by_finite_differences():
    sizes = int32([0, 9, 2, 0, 6])
    gram = jax.jit(lambda x, dy: grouped_outer(x, dy, sizes))
    check_grads(gram, (draw(0, 19, D), draw(1, 19, H)), order=2, modes=["fwd", "rev"], atol=2e-2, rtol=2e-2)


def test_products_have_derivatives_by_finite_differences():
    sizes = int32([0, 9, 2, 0, 6])
    product = jax.jit(lambda x, w: grouped_matmul(x, w, sizes))
    check_grads(product, (draw(0, 19, D), draw(1, E, D, H)), order=2, modes=["fwd", "rev"], atol=2e-2, rtol=2e-2)


def test_bfloat16_in_bfloat16_out(units):
    matmul, outer = (jax.jit(lambda *a, f=f: f(*a)) for f in (grouped_matmul, grouped_outer))  # programs of their own
    sizes = [20, 0, 13, 1, 6]
    x, w, dy = (jnp.asarray(draw(i, *shape), jnp.bfloat16) for i, shape in enumerate([(40, D), (E, D, H), (40, H)]))
    y, dw = matmul(x, w, int32(sizes)), outer(x, dy, int32(sizes))
    assert y.dtype == dw.dtype == jnp.bfloat16
    exact = [np.asarray(a, np.float64) for a in (x, w, dy)]
    # One rounding to 8 bits of the result; sums are kept in float32.
    np.testing.assert_allclose(np.asarray(y, float), reference.grouped_matmul(*exact[:2], sizes), rtol=1e-2, atol=1e-2)
    want = reference.grouped_outer(exact[0], exact[2], sizes)
    np.testing.assert_allclose(np.asarray(dw, float), want, rtol=1e-2, atol=1e-2)


@pytest.fixture(params=[True, False], ids=["units", "no units"])
def units(request, monkeypatch):
    """Whether the processor has units for bfloat16."""
    monkeypatch.setattr(cpu_blas, "has_units", lambda: request.param)
    return request.param


def test_blas_computes_what_the_processor_has_no_units_for_unless_the_program_is_exported(units):
    def names(lowering):
        ones = (jnp.ones((1, 1), dtype) for dtype in ("float32", "bfloat16", "float16"))
        return [front.on_cpu(lowering, a, a).__name__.rpartition("_")[2] for a in ones]

    assert names(Lowering(exported=False, devices=1)) == ["blas", "blocks" if units else "blas", "blas"]
    assert names(Lowering(exported=True, devices=1)) == ["blocks"] * 3
    assert front.choices() == {"float32": "cpu_blas", "bfloat16": "cpu_blocks" if units else "cpu_blas"}


def test_float64_is_added_up_in_float64():
    assert wide("float64") == "float64"
    assert cpu_blas.serves("float64")


@few
@given(st.lists(st.integers(0, 300), min_size=E, max_size=E), st.integers(1, 9))
def test_pieces_are_every_group_once(sizes, width):
    pieces = cpu_blas._pieces(np.array(sizes), np.full(E, width))
    for e in range(E):
        bounds = [(low, high) for expert, low, high in pieces if expert == e]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == width
        assert all(a[1] == b[0] for a, b in pairwise(bounds))


def test_a_group_that_is_all_rows_is_shared_by_all_cores():
    pieces = cpu_blas._pieces(np.array([0, 512, 0]), np.array([0, 512, 0]))
    assert sum(e == 1 for e, *_ in pieces) == 2 * blas_threads.cores()


def test_long_sums_of_bfloat16_are_kept_in_float32(units):
    # 600 ones: counted in bfloat16 the sum would stand still at 256.
    ones = jnp.ones((600, 1), jnp.bfloat16)
    np.testing.assert_array_equal(jax.jit(lambda *a: grouped_outer(*a))(ones, ones, int32([600])), [[[600]]])


def test_vmap_over_rows_matrices_and_sizes():
    sizes = int32([[7, 0, 20, 0, 3], [0, 0, 0, 40, 0], [8, 8, 8, 8, 8]])
    x, w, dy = draw(0, 3, 40, D), draw(1, 3, E, D, H), draw(2, 3, 40, H)
    y, dw = jax.jit(jax.vmap(grouped_matmul))(x, w, sizes), jax.jit(jax.vmap(grouped_outer))(x, dy, sizes)
    x, w, dy, sizes = (np.asarray(a) for a in (x, w, dy, sizes))
    for i in range(3):
        assert_close(y[i], reference.grouped_matmul(x[i], w[i], sizes[i]))
        assert_close(dw[i], reference.grouped_outer(x[i], dy[i], sizes[i]))


def test_a_row_is_in_the_group_that_holds_it_or_in_none():
    # Groups of two, none and one row, with a row between them and one behind.
    got = Groups(int32([0, 3, 3]), int32([2, 0, 1])).of_rows(5)
    np.testing.assert_array_equal(got, [0, 0, 3, 2, 3])


def test_vmap_over_rows_alone():
    # As over examples, with the same experts for all, which are not copied.
    x, w, sizes = draw(0, 3, 20, D), draw(1, E, D, H), int32([7, 0, 10, 0, 3])
    lowered = jax.jit(jax.vmap(grouped_matmul, in_axes=(0, None, None))).lower(x, w, sizes)
    assert f"tensor<{3 * E}x{D}x{H}xf32>" not in lowered.as_text()
    y = lowered.compile()(x, w, sizes)
    for i in range(3):
        assert_close(y[i], reference.grouped_matmul(np.asarray(x[i]), np.asarray(w), np.asarray(sizes)))


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, 0, None), (None, None, 0)])
def test_vmap_equals_a_loop_in_values_and_gradients_whatever_is_mapped(axes):
    """Inner and outer: gradients of a mapped product, and mapped gradients of one."""
    sizes = int32([[7, 0, 20, 0, 3], [0, 0, 0, 40, 0], [8, 8, 8, 8, 8]])  # some rows are left over
    everything = (draw(0, 3, 40, D), draw(1, 3, E, D, H), sizes)
    x, w, sizes = (a if axis == 0 else a[1] for a, axis in zip(everything, axes, strict=True))

    def f(x, w, sizes):
        return jnp.sin(grouped_matmul(x, w, sizes))

    def of_sum(x, w):
        return jax.vmap(f, axes)(x, w, sizes).sum()

    def gradients(x, w, sizes):
        return jax.grad(lambda x, w: f(x, w, sizes).sum(), argnums=(0, 1))(x, w)

    values, by_map, of_map = jax.jit(
        lambda x, w: (
            jax.vmap(f, axes)(x, w, sizes),
            jax.vmap(gradients, axes)(x, w, sizes),
            jax.grad(of_sum, (0, 1))(x, w),
        )
    )(x, w)
    one = jax.jit(lambda x, w, sizes: (f(x, w, sizes), gradients(x, w, sizes)))
    rows = [[a[i] if axis == 0 else a for a, axis in zip((x, w, sizes), axes, strict=True)] for i in range(3)]
    want, want_gradients = jax.tree.map(lambda *a: np.stack(a), *(one(*row) for row in rows))
    assert_close(values, want)
    for got, summed, loop, axis in zip(by_map, of_map, want_gradients, axes, strict=False):
        assert_close(got, loop)
        assert_close(summed, loop if axis == 0 else loop.sum(0))


def test_vmap_within_vmap():
    sizes = int32([[[7, 0, 2, 0, 3], [0, 0, 0, 14, 0]], [[2, 2, 2, 2, 2], [0, 1, 0, 0, 0]]])
    x, w = draw(0, 2, 2, 14, D), draw(1, 2, E, D, H)  # the matrices belong to the outer map alone
    y = jax.jit(jax.vmap(jax.vmap(grouped_matmul, (0, None, 0))))(x, w, sizes)
    x, w, sizes = (np.asarray(a) for a in (x, w, sizes))
    for i, j in np.ndindex(2, 2):
        assert_close(y[i, j], reference.grouped_matmul(x[i, j], w[i], sizes[i, j]))
        np.testing.assert_array_equal(y[i, j, sizes[i, j].sum() :], 0)


@pytest.mark.parametrize(("dtype", "name"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_a_mapped_product_takes_no_turns_in_lock_step(dtype, name, units):
    # A loop mapped in lock-step would select, for its whole result, whose turn it is.
    sizes = int32([[7, 0, 20, 0, 3], [0, 0, 0, 40, 0]])
    x, w = draw(0, 2, 40, D).astype(dtype), draw(1, 2, E, D, H).astype(dtype)
    program = jax.jit(jax.vmap(grouped_matmul)).lower(x, w, sizes).as_text()
    assert f"2x40x4x{name}" in program  # the result
    selects = [line for line in program.splitlines() if "stablehlo.select" in line]
    assert not any("2x40x" in line for line in selects)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_that_is_no_number_spoils_its_own_group_alone(dtype, units):
    matmul, outer = (jax.jit(lambda *a, f=f: f(*a)) for f in (grouped_matmul, grouped_outer))  # programs of their own
    x, w, dy, sizes = draw(0, 40, D), draw(1, E, D, H), draw(2, 40, H), [7, 0, 20, 0, 10]
    x, w, dy = (a.astype(dtype) for a in (x.at[8].set(jnp.nan), w, dy))
    y, dw = (np.asarray(a, np.float32) for a in (matmul(x, w, int32(sizes)), outer(x, dy, int32(sizes))))
    assert np.isfinite(np.delete(y, 8, axis=0)).all()
    assert np.isfinite(dw[[0, 1, 3, 4]]).all()


def test_each_row_gets_its_experts_vector_and_its_derivative_is_their_sum():
    bias, sizes = draw(0, E, H), int32([2, 0, 3, 0, 1])
    # Rows beyond the last run may hold anything, so nothing may depend on them.
    cotangent = draw(1, 8, H).at[6:].set(0)
    rows, pull = jax.vjp(lambda bias: rows_of_groups(bias, sizes, 8), bias)
    np.testing.assert_array_equal(rows[:6], np.asarray(bias)[[0, 0, 2, 2, 2, 4]])
    want = np.zeros((E, H))
    for row, e in enumerate([0, 0, 2, 2, 2, 4]):
        want[e] += cotangent[row]
    np.testing.assert_allclose(pull(cotangent)[0], want, rtol=1e-5, atol=1e-6)


def test_the_derivative_of_a_vector_takes_nothing_from_rows_beyond_the_last_run():
    bias, sizes = draw(0, E, H), int32([2, 0, 3, 0, 1])
    _, pull = jax.vjp(lambda bias: rows_of_groups(bias, sizes, 8), bias)
    # Sums of ones: as many as the runs are long, though eight rows ask.
    np.testing.assert_allclose(pull(jnp.ones((8, H)))[0], np.tile([[2], [0], [3], [0], [1]], (1, H)))


def test_the_vectors_can_be_differentiated_twice():
    bias, v, sizes = draw(0, E, H), draw(1, E, H), int32([2, 0, 3, 0, 3])

    def f(bias):
        return (rows_of_groups(bias, sizes, 8) ** 3).sum()

    curvature = jax.jit(jax.grad(lambda bias: jnp.vdot(jax.grad(f)(bias), v)))(bias)
    np.testing.assert_allclose(curvature, 6 * sizes[:, None] * bias * v, rtol=1e-5, atol=1e-6)
