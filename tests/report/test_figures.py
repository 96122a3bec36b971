"""The arithmetic behind the figures, on cases worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from moejax.report import tiles
from moejax.report.balance import load
from moejax.report.curves import accuracy_scale, curves, smooth
from moejax.report.map import two_directions
from moejax.report.record import Record
from moejax.report.sections import SECTIONS
from moejax.report.style import expert_colours, key, panels, portion, sheet, spread


def test_smooth_is_a_trailing_mean_that_passes_over_nan():
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_allclose(smooth(values, 2), [1, 2, 3, 5, 6])
    np.testing.assert_allclose(smooth(values, 1), values)


def test_the_test_is_drawn_at_the_step_that_was_tested():
    validation = {"step": np.array([10, 20, 30]), "loss": np.array([1, 0.5, 2]), "accuracy": np.array([0.5, 0.9, 0.6])}
    summary = {"test_loss": 0.5, "test_accuracy": 0.9, "tested_step": 20}
    record = Record(Path("run"), {}, {}, {}, summary, {}, validation, {}, {}, ())
    stars = [line for axes in curves(record).axes for line in axes.lines if "test" in str(line.get_label())]
    assert [(star.get_xdata()[0], star.get_ydata()[0]) for star in stars] == [(20, 0.5), (20, 0.9)]


def test_two_directions_of_a_plane_hold_all_and_of_three_alike_two_thirds():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(5, 8, 2)) @ np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]])
    places, share = two_directions(plane + rng.normal(size=(5, 8, 1)))  # what is common to a token does not count
    assert share == pytest.approx(1)
    between = lambda of: ((of[:, None] - of[None]) ** 2).sum(-1)  # noqa: E731
    np.testing.assert_allclose(between(places), between(plane.reshape(-1, 4)))
    corners = np.concatenate([np.eye(4), -np.eye(4)])
    assert two_directions(corners)[1] == pytest.approx(2 / 3)
    assert two_directions(np.ones((4, 3))) == (pytest.approx(np.zeros((4, 2))), 1.0)
    assert two_directions(np.ones((4, 1)))[0].shape == (4, 2)


def test_spread_keeps_first_and_last():
    assert spread(12, 4).tolist() == [0, 4, 7, 11]
    assert spread(3, 8).tolist() == [0, 1, 2]
    assert spread(1, 8).tolist() == [0]


def test_portion_speaks_only_when_something_is_missing():
    assert portion(6, 12, "layers") == "6 of 12 layers"
    assert portion(6, 6, "layers") == ""


@pytest.mark.parametrize("count", [1, 2, 8, 9, 64])
def test_experts_have_colours_of_their_own(count):
    colours = expert_colours(count)
    assert colours.shape == (count, 3)
    assert len(np.unique(colours, axis=0)) == count


def test_few_experts_keep_their_colours_when_more_join():
    np.testing.assert_array_equal(expert_colours(8)[:3], expert_colours(3))


def test_each_grey_image_has_ink_by_its_own_ground():
    dark, light = np.zeros((5, 5, 1), np.uint8), np.full((5, 5, 1), 255, np.uint8)
    dark[2, 2], light[2, 2] = 255, 0
    together = tiles.ink(np.stack([dark, light, dark]))
    for one, image in zip(together, (dark, light, dark), strict=True):
        np.testing.assert_array_equal(one, tiles.ink(image[None])[0])
        assert one[2, 2].mean() < 0.3 < 0.8 < one[0, 0].mean()


def test_the_last_accuracies_lie_on_the_axis():
    _, axes = panels(1, 1, 1.0)
    accuracy_scale(axes[0], np.full(50, 0.99), [0.6, math.nan])
    assert axes[0].get_ylim()[0] < 0.6


def test_stretch_is_linear_between_centres_and_flat_beyond():
    np.testing.assert_allclose(tiles.stretch(np.array([[0.0, 1.0]]), 1, 4), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(tiles.stretch(np.full((3, 2, 2), 0.3), 28, 28), np.full((3, 28, 28), 0.3))


def test_blocks_repeat_each_place():
    np.testing.assert_array_equal(tiles.blocks(np.array([[1, 2], [3, 4]]), 2, 4), [[1, 1, 2, 2], [3, 3, 4, 4]])


def test_ink_is_dark_whatever_the_ground_and_colours_stay():
    stroke = np.zeros((1, 5, 5, 1), np.uint8)
    stroke[0, 2, 2] = 255
    for grey in (stroke, 255 - stroke):
        drawn = tiles.ink(grey)
        assert drawn.shape == (1, 5, 5, 3)
        assert drawn[0, 2, 2].max() < 0.3 < 0.9 < drawn[0, 0].min()
    red = np.concatenate([stroke, 0 * stroke, 0 * stroke], axis=-1)
    np.testing.assert_allclose(tiles.ink(red), red / 255, atol=1e-12)
    assert (tiles.ink(red, 0.0) == tiles.PAPER).all()


@pytest.mark.parametrize("experts", [4, 16])
def test_remarks_and_the_key_leave_room_for_each_other(experts):
    figure = sheet(
        2.0,
        "colour: the expert with most weight; fainter: less of it",
        "no computation: 2–3 zero, 4 copy",
        "3 of 9 layers",
    )
    key(figure, expert_colours(experts), "expert")
    renderer = FigureCanvasAgg(figure).get_renderer()
    left, right = [], []
    for text in filter(lambda text: text.get_text(), figure.texts):
        (left if text.get_position()[0] == 0.1 else right).append(text.get_window_extent(renderer))
    assert len(left) == 2
    assert max(box.x1 for box in left) < min(box.x0 for box in right)


def test_mosaic_puts_pictures_in_rows():
    pictures = np.arange(6.0).reshape(2, 3, 1, 1, 1) * np.ones(3)
    np.testing.assert_array_equal(tiles.mosaic(pictures, 0)[..., 0], [[0, 1, 2], [3, 4, 5]])


def test_tint_at_full_strength_is_the_colour_on_white_and_leaves_black_black():
    colour = np.array([0.2, 0.4, 0.6])
    for picture, expected in ((1.0, colour), (0.0, np.zeros(3))):
        np.testing.assert_allclose(tiles.tint(np.full((1, 1, 3), picture), colour, np.ones((1, 1)))[0, 0], expected)


def test_sections_have_names_and_words_of_their_own():
    for field in ("name", "title", "good", "bad", "draw"):
        assert len({getattr(section, field) for section in SECTIONS}) == len(SECTIONS)


def test_the_busiest_expert_over_three_layers_is_drawn_even_where_a_load_is_no_number():
    loads = np.full((4, 3, 2), 0.5)
    loads[1, 1] = np.nan
    empty = dict(environment={}, data={}, summary={}, train={}, validation={}, test={}, remarks=())
    figure = load(Record(folder=Path(), config={}, routing={"load": loads}, **empty))
    assert [axes.get_title() for axes in figure.axes][-1] == "The busiest expert, over all layers"
    line = figure.axes[-1].lines[0].get_ydata()
    np.testing.assert_array_equal(line, [1, np.nan, 1, 1])
