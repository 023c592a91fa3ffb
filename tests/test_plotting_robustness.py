"""Scatters, forest plots and slices of input space: what is drawn, what is refused; curves as texts."""

import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxsens.plotting import (
    IntervalPanel,
    IntervalRow,
    ScatterPanel,
    SlicePanel,
    figure_of_intervals,
    figure_of_scatter,
    figure_of_slices,
    save_intervals,
    save_scatter,
    save_slices,
)
from jaxsens.plotting.intervals import interval_texts
from jaxsens.plotting.slices import CLASS_COLOURS, region_shades
from jaxsens.table import (
    Table,
    TableError,
    image_to_text,
    numbers_to_text,
    read_table,
    text_to_image,
    text_to_numbers,
    write_table,
)


def test_numbers_survive_as_text():
    assert numbers_to_text([0.1, 2, math.nan, -math.inf, 1e-5]) == "0.1 2.0 nan -inf 1e-05"
    assert numbers_to_text(np.array([0.1], dtype=np.float32)) == "0.1"
    bits = np.random.default_rng(0).integers(2**64, size=3000, dtype=np.uint64)
    for values in (bits.view(np.float64), bits.view(np.float32), bits.view(np.float16)):
        with np.errstate(over="ignore"):
            back = text_to_numbers(numbers_to_text(values)).astype(values.dtype)
        np.testing.assert_array_equal(back, values)
    assert text_to_numbers("3 4").dtype == np.float64
    np.testing.assert_array_equal(text_to_numbers(numbers_to_text([1, 2])), [1.0, 2.0])


@pytest.mark.parametrize("values", [[], [1.0, None], [[1.0]], ["a"], [True], [1j], 1.0])
def test_other_numbers_are_refused(values):
    with pytest.raises(TableError, match=r"expected \(n,\) numbers"):
        numbers_to_text(np.array(values))


@pytest.mark.parametrize("text", ["", "1 x", "None", "1,2"])
def test_other_texts_are_no_numbers(text):
    with pytest.raises(TableError, match="expected numbers such as"):
        text_to_numbers(text)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32"])
def test_pictures_survive_as_text(kind, tmp_path):
    ends = np.iinfo(kind)
    picture = np.random.default_rng(0).integers(ends.min, ends.max, size=(13, 7), dtype=kind, endpoint=True)
    text = image_to_text(picture)
    assert text.startswith(f"{kind} 13x7 ")
    table = Table.from_rows([{"picture": text, "curve": numbers_to_text(picture[0])}])
    write_table(table, tmp_path / "rows.parquet")
    (row,) = read_table(tmp_path / "rows.parquet").rows()
    back = text_to_image(row["picture"])
    assert back.dtype == picture.dtype
    np.testing.assert_array_equal(back, picture)
    np.testing.assert_array_equal(text_to_numbers(row["curve"]), picture[0])
    # In any order of memory and of bytes.
    assert image_to_text(np.asfortranarray(picture)) == text
    assert image_to_text(picture.astype(picture.dtype.newbyteorder(">"))) == text
    back[0, 0] = 1


def test_maps_of_few_labels_take_little_room():
    assert len(image_to_text(np.repeat(np.arange(300, dtype=np.int32), 300).reshape(300, 300))) < 8_000


def test_other_pictures_are_refused():
    for array in (np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(TableError, match=r"expected \(height, width\) of uint8, uint16, int32"):
            image_to_text(array)
    text = image_to_text(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for damaged in ("", text[:-5], text.replace("2x3", "2x4"), text.replace("uint8", "float64"), text[:11]):
        with pytest.raises(TableError, match="expected a picture such as"):
            text_to_image(damaged)


def scatter(n=400, *, names=("wide", "deep", "both"), **options):
    groups = np.array(names)[np.arange(n) % len(names)]
    x, noise = np.random.default_rng(n).standard_normal((2, n))
    return ScatterPanel(x, x + noise, groups, "a title", "x", "y", **options)


def test_a_group_has_one_colour_in_all_panels_and_one_legend():
    figure = figure_of_scatter([scatter(600), scatter(200, names=("deep", "wide"))])
    assert len(figure.legends) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["wide", "deep", "both"]
    one, two = (axes.collections[0] for axes in figure.axes)
    assert len(one.get_offsets()) == 600
    assert len(two.get_offsets()) == 200
    assert one.get_rasterized()
    hues = [{tuple(colour[:3]) for colour in found.get_facecolors()} for found in (one, two)]
    assert (len(hues[0]), len(hues[1])) == (3, 2)
    assert hues[1] < hues[0]
    # Fewer points are larger.
    assert two.get_sizes()[0] > one.get_sizes()[0]


def test_groups_that_differ_have_a_legend_per_panel():
    figure = figure_of_scatter([scatter(), scatter(names=("others",))])
    assert [len(legend.get_texts()) for legend in figure.legends] == [3, 1]


def test_a_second_round_of_colours_has_its_own_marker():
    figure = figure_of_scatter([scatter(90, names=tuple(f"group {i}" for i in range(9)))])
    first, second = figure.axes[0].collections
    assert len(first.get_offsets()) == 60
    assert len(second.get_offsets()) == 30
    assert first.get_paths()[0].vertices.shape != second.get_paths()[0].vertices.shape


def test_points_off_the_axes_are_counted_in_the_note():
    panel = ScatterPanel([1, -1, 10, 100], [1, 2, math.nan, 4], ["a"] * 3 + ["b"], log_x=True, note="rho = 1")
    np.testing.assert_array_equal(panel.shown, [True, False, False, True])
    figure = figure_of_scatter([panel])
    assert any(text.get_text() == "rho = 1; 2 of 4 points not shown" for text in figure.texts)
    assert len(figure.axes[0].collections[0].get_offsets()) == 2
    assert figure.axes[0].get_xscale() == "log"


ROWS = (
    IntervalRow("first", 0.7, 0.62, 0.78, 1200),
    IntervalRow("second", 0.52, 0.45, 0.59, 80),
    IntervalRow("one network only", 0.4, math.nan, math.nan, 1),
)


def test_rows_apart_from_the_line_are_filled():
    figure = figure_of_intervals([IntervalPanel(ROWS, "a title", "area", 0.5)])
    (axes,) = figure.axes
    values = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in values] == [0.7, 0.52, 0.4]
    assert [line.get_markerfacecolor() == "white" for line in values] == [False, True, True]
    bars = [line for line in axes.lines if line.get_linewidth() == 1.3]
    np.testing.assert_allclose([line.get_xdata() for line in bars], [[0.62, 0.78], [0.45, 0.59]])
    assert [text.get_text() for text in axes.texts] == [
        *("0.70 [0.62, 0.78]", "0.52 [0.45, 0.59]", "0.40"),
        *("n = 1,200", "n = 80", "n = 1"),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in ROWS]
    # From top to bottom.
    assert axes.yaxis_inverted()


def test_what_lies_beyond_the_limits_has_an_arrow():
    rows = [("far", 0.9, 0.2, 3.0), ("beyond", 5.0, 4.0, 6.0), ("near", 0.1, 0.0, 0.2)]
    figure = figure_of_intervals([IntervalPanel(rows, limits=(-1, 1), reference=None)])
    (axes,) = figure.axes
    assert axes.get_xlim() == (-1, 1)
    assert [line.get_marker() for line in axes.lines].count(">") == 2
    assert [line.get_marker() for line in axes.lines].count("o") == 2


def test_texts_show_as_many_digits_as_the_intervals_need():
    rows = [IntervalRow("a", 0.12345, 0.12111, 0.12579), IntervalRow("b", -0.0001, -0.002, 0.002)]
    assert interval_texts(rows) == ["0.123 [0.121, 0.126]", "0.000 [−0.002, 0.002]"]
    assert interval_texts([IntervalRow("a", 123.4, 93.0, 153.0)]) == ["123 [93, 153]"]
    assert interval_texts([IntervalRow("a", 3e7, 1e7, 5e7)]) == ["3e+07 [1e+07, 5e+07]"]
    assert interval_texts([IntervalRow("a", 0.0, math.nan, math.nan)]) == ["0"]
    assert interval_texts([IntervalRow("a", 2.0, 2.0, 2.0)]) == ["2.0 [2.0, 2.0]"]


def slice_panel(size=40, *, num_classes=3, **options):
    """Regions of 10 by 10 pixels; the left half of class 0, the right of the last."""
    blocks = np.arange(size) // 10
    regions = blocks[:, None] * 100 + blocks[None, :]
    classes = np.broadcast_to(np.where(np.arange(size) < size // 2, 0, num_classes - 1), (size, size))
    points = np.array([[0.5, 0.5], [-0.5, 0.2]])
    return SlicePanel(
        regions, classes, points, [0, num_classes - 1], (-1, 1, -1, 1), num_classes=num_classes, **options
    )


def test_a_slice_shows_regions_classes_and_points():
    figure = figure_of_slices([slice_panel(title="a title", note="16 regions")], class_names=["a", "b", "c"])
    (axes,) = figure.axes
    thin, thick, points = axes.collections
    # Four blocks a side: three lines in each direction, one run of edges each; one between the classes.
    assert len(thin.get_segments()) == 6
    (between,) = thick.get_segments()
    np.testing.assert_allclose(between, [[0, -1], [0, 1]], atol=1e-12)
    np.testing.assert_array_equal(points.get_offsets(), [[0.5, 0.5], [-0.5, 0.2]])
    (image,) = axes.images
    assert image.origin == "lower"
    assert image.get_extent() == [-1, 1, -1, 1]
    shades = np.unique(image.get_array().reshape(-1, 3), axis=0)
    assert len(shades) == 16
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "c"]
    assert axes.get_xlabel() == axes.get_ylabel() == "distance in input space"


def test_slices_keep_one_scale_in_both_directions():
    wide = SlicePanel(np.zeros((5, 20), int), np.zeros((5, 20), int), extent=(0, 4, 0, 1))
    figure = figure_of_slices([wide, slice_panel(), slice_panel(), slice_panel()], columns=3)
    assert figure.get_figwidth() == 7
    for axes, ratio in zip(figure.axes, (4, 1, 1, 1), strict=True):
        box = axes.get_position()
        found = box.width * figure.get_figwidth() / (box.height * figure.get_figheight())
        assert found == pytest.approx(ratio)
    # The label on the left holds for those beside it.
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, False, True]


def test_one_region_of_one_class_has_no_lines():
    figure = figure_of_slices([SlicePanel(np.full((3, 3), 7), np.zeros((3, 3), int))])
    assert not figure.axes[0].collections
    one_pixel = SlicePanel(np.array([[7]]), np.array([[0]]))
    assert figure_of_slices([one_pixel]).axes[0].images


def test_lines_between_as_many_regions_as_pixels_are_left_out():
    panel = SlicePanel(np.arange(900).reshape(30, 30), np.zeros((30, 30), int))
    assert not figure_of_slices([panel]).axes[0].collections


def test_shades_of_close_labels_are_unrelated_and_repeatable():
    shades = region_shades(np.arange(20_000).reshape(100, 200))
    assert shades.min() >= 0
    assert shades.max() < 1
    np.testing.assert_allclose(np.histogram(shades, 10, (0, 1))[0] / 20_000, 0.1, atol=0.01)
    assert abs(np.corrcoef(shades.ravel()[1:], shades.ravel()[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(region_shades(np.array([[-3, 5]])), region_shades(np.array([[-3, 5]])))
    assert len(set(CLASS_COLOURS)) == 10


def test_files_are_written_and_no_setting_is_touched(tmp_path):
    before = dict(matplotlib.rcParams)
    save_scatter([scatter(), scatter()], tmp_path, "scatter")
    save_intervals([IntervalPanel(ROWS, "one"), IntervalPanel(ROWS, "two")], tmp_path, "intervals")
    save_slices([slice_panel(), slice_panel()], tmp_path, "slices")
    assert dict(matplotlib.rcParams) == before
    for stem in ("scatter", "intervals", "slices"):
        with Image.open(tmp_path / f"{stem}.png") as picture:
            assert picture.width == 1400
            assert 400 < picture.height < 1400
        assert 5_000 < (tmp_path / f"{stem}.pdf").stat().st_size < 500_000


def test_nothing_is_written_over_anything_else():
    """Titles, notes, labels and texts of a full figure, each in its own place."""
    long = "a long title of a panel that has to be broken into two lines or three"
    figures = [
        figure_of_scatter([scatter(note=long), scatter(), scatter(), scatter(names=("others",))]),
        figure_of_slices([slice_panel(title=long, note=long), *[slice_panel(title="b")] * 4]),
        figure_of_intervals([IntervalPanel([*ROWS, (long + long, 0.5, 0.4, 0.6, 3)], long, "x")] * 2),
    ]
    for figure in figures:
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        boxes += [text.get_window_extent() for text in figure.texts]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for index, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
            for other in boxes[:index]:
                # A pixel of slack for rounding.
                apart = (
                    box.x1 < other.x0 + 1
                    or other.x1 < box.x0 + 1
                    or box.y1 < other.y0 + 1
                    or other.y1 < box.y0 + 1
                )
                assert apart, (box, other)


def test_unusable_panels_are_refused():
    for figure_of in (figure_of_scatter, figure_of_intervals, figure_of_slices):
        with pytest.raises(TableError, match="expected one or more"):
            figure_of([])
    with pytest.raises(TableError, match="in 0 columns"):
        figure_of_slices([slice_panel()], columns=0)
    with pytest.raises(TableError, match=r"expected \(n,\) for all"):
        ScatterPanel([1, 2], [1, 2], ["a"])
    with pytest.raises(TableError, match="no point to show in the panel 'p'"):
        figure_of_scatter([ScatterPanel([-1.0], [1.0], ["a"], "p", log_x=True)])
    with pytest.raises(TableError, match="got no rows in the panel 'p'"):
        IntervalPanel((), "p")
    with pytest.raises(TableError, match="in the row 'r'; expected finite"):
        IntervalPanel([("r", math.nan, 0.0, 1.0)])
    with pytest.raises(TableError, match="in the row 'r'; expected finite"):
        IntervalPanel([("r", 0.5, 0.0, math.inf)])
    with pytest.raises(TableError, match="expected the lower end first"):
        IntervalPanel([("r", 0.5, 1.0, 0.0)])
    with pytest.raises(TableError, match="got limits"):
        IntervalPanel(ROWS, limits=(1, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": np.zeros((2, 3), int)}, r"got regions \(2, 2\) and classes \(2, 3\)"),
        ({"regions": np.zeros((2, 2))}, "got regions of type float64"),
        ({"classes": np.full((2, 2), 3)}, "got other classes; expected whole numbers from 0 to 2"),
        ({"points": np.zeros((1, 2))}, r"got points \(1, 2\) and their labels \(0,\)"),
        ({"points": np.zeros((1, 2)), "point_labels": [-1]}, "got other point_labels"),
        ({"points": np.full((1, 2), np.nan), "point_labels": [1]}, "not finite"),
        ({"extent": (1, 0, 0, 1)}, "expected left < right"),
        ({"num_classes": 11}, "got 11 classes; expected 1 to 10"),
    ],
)
def test_unusable_slices_are_refused(changes, message):
    usable = {"regions": np.zeros((2, 2), int), "classes": np.zeros((2, 2), int), "num_classes": 3}
    with pytest.raises(TableError, match=message):
        SlicePanel(**(usable | changes))


def test_every_class_needs_a_name():
    with pytest.raises(TableError, match="got 2 names of 3 classes"):
        figure_of_slices([slice_panel()], class_names=["a", "b"])
