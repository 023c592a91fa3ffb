"""Panels of curves and histograms: what is drawn, and what is refused."""

import numpy as np
import pytest

from jaxsens.plotting import (
    Curve,
    CurvePanel,
    decades,
    decades_of_log,
    figure_of_curves,
    histogram_curve,
    normal_curve,
    row_curve,
    sampled_curve,
    save_curves,
)
from jaxsens.table import Table, TableError, counts_to_text, text_to_counts


def test_counts_survive_as_text():
    values = np.array([7, 3, 3, 12, 7, 7])
    text = counts_to_text(values)
    assert text == "3:2 7:3 12:1"
    places, counts = text_to_counts(text)
    np.testing.assert_array_equal(np.repeat(places, counts), np.sort(values))
    for damaged in ("", "3", "3:x", "a:1"):
        with pytest.raises(TableError, match="expected a histogram"):
            text_to_counts(damaged)


def test_a_histogram_has_a_share_at_every_number():
    curve = histogram_curve("T", np.array([3, 5]), np.array([1, 3]))
    np.testing.assert_array_equal(curve.x, [3, 4, 5])
    np.testing.assert_array_equal(curve.y, [0.25, 0, 0.75])


def test_the_normal_density_is_the_share_of_each_number():
    """Of whole numbers with a wide normal distribution: it sums to 1."""
    curve = normal_curve("normal", 50.0, 6.0, (0, 100))
    np.testing.assert_allclose(np.trapezoid(curve.y, curve.x), 1, rtol=1e-6)
    np.testing.assert_allclose(curve.y.max(), 1 / (6 * np.sqrt(2 * np.pi)), rtol=1e-2)


def test_curves_of_rows_are_means_with_least_and_greatest():
    rows = [{"epoch": e, "loss": loss} for e, loss in ((2, 5.0), (1, 1.0), (1, 3.0), (2, None), (3, None))]
    curve = row_curve(Table.from_rows(rows), "loss", "test")
    np.testing.assert_array_equal(curve.x, [1, 2])
    np.testing.assert_array_equal(curve.y, [2, 5])
    np.testing.assert_array_equal(curve.low, [1, 5])
    np.testing.assert_array_equal(curve.high, [3, 5])
    logs = row_curve(Table.from_rows(rows), "loss", "test", transform=decades)
    np.testing.assert_allclose(logs.y, [np.log10(3) / 2, np.log10(5)])


def test_decades():
    np.testing.assert_allclose(decades(np.array([1e-3, 1e200])), [-3, 200])
    assert np.isnan(decades(np.array([0.0, -1.0]))).all()
    np.testing.assert_allclose(decades_of_log(np.log(1e5)), 5)


def test_sampled_curves_are_spaced_on_the_axis():
    curve = sampled_curve("x", lambda x: x**2, (1, 100), log=True, num=3)
    np.testing.assert_allclose(curve.x, [1, 10, 100])
    np.testing.assert_allclose(curve.y, [1, 100, 10_000])


def test_one_label_has_one_colour_and_one_legend(tmp_path):
    x = np.arange(5)
    panels = [
        CurvePanel((Curve("a", x, x), Curve("b", x, 2 * x, style="dashed", colour="a")), "one"),
        CurvePanel((Curve("a", x, -x, low=-x - 1, high=-x + 1),), "two", y_limits=(-10, 0)),
    ]
    figure = figure_of_curves(panels)
    one, two = figure.axes
    assert one.lines[0].get_color() == one.lines[1].get_color() == two.lines[0].get_color()
    assert len(figure.legends) == 1
    assert two.get_ylim() == (-10, 0)
    save_curves(panels, tmp_path, "curves")
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    assert (tmp_path / "curves.pdf").exists()


def test_many_curves_are_told_apart_by_colour_or_dash():
    x = np.arange(3)
    figure = figure_of_curves([CurvePanel(tuple(Curve(f"c{i}", x, x + i) for i in range(12)))])
    looks = {(line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines}
    assert len(looks) == 12


def test_unusable_curves_are_refused():
    x = np.arange(3)
    with pytest.raises(TableError, match="expected \\(n,\\) for all"):
        Curve("a", x, x[:2])
    with pytest.raises(TableError, match="got style 'dotted'"):
        Curve("a", x, x, style="dotted")
    with pytest.raises(TableError, match="no finite y in the panel 'p'"):
        figure_of_curves([CurvePanel((Curve("a", x, x * np.nan),), "p")])
    with pytest.raises(TableError, match="got 0 panels"):
        figure_of_curves([])
