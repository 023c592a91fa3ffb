"""The numbers drawn are those of the table, and the files hold nothing but the picture."""

import itertools
import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxsens import stats
from jaxsens.plotting import (
    Line,
    Panel,
    Prediction,
    equation_7,
    equation_9,
    equation_14,
    figure_of_panels,
    figure_one_points,
    loss_against_sensitivity,
    relabel,
    save_figure,
    zoom_limits,
)
from jaxsens.plotting.style import log_ticks, look
from jaxsens.table import Table, TableError

FAMILIES = ("AlexNet", "VGG13", "ResNet18", "FC-4 with SN")


def synthetic(families=FAMILIES, scales=(0.5, 1.0, 2.0), seeds=4):
    rng = np.random.default_rng(0)
    return Table.from_rows(
        {
            "cell": f"{family} {scale}",
            "family": family,
            "scale": scale,
            "seed": seed,
            "sensitivity_after": float(np.exp(2 * row + scale + 0.2 * rng.standard_normal())),
            "test_loss": float(np.exp(row + 0.5 * scale + 0.1 * rng.standard_normal())),
            "diverged": False,
        }
        for row, family in enumerate(families)
        for scale in scales
        for seed in range(seeds)
    )


def row(cell, seed, s, loss, diverged=False, family="F"):
    return {
        "cell": cell,
        "family": family,
        "seed": seed,
        "sensitivity_after": s,
        "test_loss": loss,
        "diverged": diverged,
    }


SMALL = [row("a", 0, 1.0, 2.0), row("a", 1, 4.0, 8.0), row("a", 2, 1e9, 1e9, True), row("b", 0, 5.0, 0.5)]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def markers(axes):
    """Family -> the Line2D of its points."""
    return {line.get_label(): line for line in axes.lines if line.get_label() in FAMILIES}


def num_drawn(axes):
    return sum(len(line.get_xdata()) for line in markers(axes).values())


def test_points_by_hand():
    points = figure_one_points(Table.from_rows([*SMALL, row("c", 0, math.nan, 1.0), row("b", 1, 0.0, 1.0)]))
    assert points.cells == ("a", "b")
    assert points.families == ("F", "F")
    np.testing.assert_allclose(points.x, [2.0, 5.0], rtol=1e-15)
    np.testing.assert_allclose(points.y, [4.0, 0.5], rtol=1e-15)
    assert (points.x_low.tolist(), points.x_high.tolist()) == ([1.0, 5.0], [4.0, 5.0])
    assert (points.y_low.tolist(), points.y_high.tolist()) == ([2.0, 0.5], [8.0, 0.5])
    assert points.num_members.tolist() == [2, 1]
    assert points.num_left_out == 3
    assert np.isnan(points.scale).all()


def test_other_columns_can_be_drawn():
    rows = [{"cell": str(i), "variance": float(i + 1), "bias": float(2 * i + 1)} for i in range(4)]
    figure = loss_against_sensitivity(Table.from_rows(rows), x="variance", y="bias")
    assert figure_one_points(Table.from_rows(rows), x="variance", y="bias").x.tolist() == pytest.approx(
        [1, 2, 3, 4]
    )
    assert "variance" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*SMALL, row("a", 0, 1.0, 1.0)], "got a seed twice in cell 'a'"),
        ([*SMALL, row("a", 7, 1.0, 1.0, family="G")], "got 2 values of 'family' in cell 'a'"),
        ([row("a", 0, 1.0, 1.0, True)], "got no member with sensitivity_after and test_loss"),
        ([{"cell": "a", "test_loss": 1.0}], "got column 'sensitivity_after'"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused(rows, message):
    with pytest.raises(TableError, match=message):
        loss_against_sensitivity(Table.from_rows(rows))


def test_the_drawn_markers_are_the_points():
    table = synthetic()
    points = figure_one_points(table)
    axes = loss_against_sensitivity(table).axes[0]
    drawn = {line.get_label(): line for line in axes.lines if line.get_label() in FAMILIES}
    assert list(drawn) == list(FAMILIES)
    for family, line in drawn.items():
        mine = np.array(points.families) == family
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([points.x[mine], points.y[mine]]))
    looks = {(line.get_color(), line.get_marker()) for line in drawn.values()}
    assert len(looks) == len(FAMILIES)


def test_the_first_63_families_look_different():
    assert len({look(i)[:2] for i in range(63)}) == 63


def test_correlation_in_the_figure_is_that_of_the_logarithms_of_the_cells():
    table = synthetic()
    points = figure_one_points(table)
    expected = stats.pearson(np.log(points.x), np.log(points.y))
    text = texts(loss_against_sensitivity(table, paper_correlation=0.97))[0].splitlines()
    assert text[0] == rf"$\rho$ = {expected.value:.3f}"
    assert text[1] == f"95% interval [{expected.low:.3f}, {expected.high:.3f}]"
    assert text[2:] == ["12 cells", "paper: 0.97"]


def test_too_few_cells_have_no_correlation():
    assert texts(loss_against_sensitivity(Table.from_rows(SMALL)))[0] == r"$\rho$: needs 3 cells"
    same = Table.from_rows([row(cell, 0, 1.0, loss) for cell, loss in (("a", 1.0), ("b", 2.0), ("c", 3.0))])
    assert texts(loss_against_sensitivity(same))[0] == r"$\rho$: needs cells that differ"


def test_diverged_members_are_counted_below_the_figure():
    noted = texts(loss_against_sensitivity(Table.from_rows(SMALL)))
    assert noted[1].startswith("1 of 4 runs left out")
    assert len(texts(loss_against_sensitivity(synthetic()))) == 1


def test_equations_7_and_14_by_hand():
    # K = 4, sigma_x^2 = 3, sigma_eps = 1/2: var = 12 S, and 3/4 of it after the softmax.
    s = np.array([0.5, 2.0])
    np.testing.assert_allclose(equation_14(s, Prediction(4, 3.0, 0.5)), [6.0, 24.0], rtol=1e-15)
    np.testing.assert_allclose(equation_7(s, Prediction(4, 3.0, 0.5)), [4.5, 18.0], rtol=1e-15)


def test_equation_9_and_its_line():
    # K = 2: sqrt(S / 4 * 4 / 0.25) = sqrt(4 S).
    assert equation_9(np.array([4.0]), Prediction(2, 4.0, 0.5)) == pytest.approx([4.0], abs=1e-15)
    for prediction, label in (((2, 4.0, 0.5), "equation (9)"), (lambda s: np.sqrt(4 * s), "predicted")):
        axes = loss_against_sensitivity(synthetic(), prediction=prediction).axes[0]
        (line,) = (line for line in axes.lines if line.get_label() == label)
        np.testing.assert_allclose(line.get_ydata(), 2 * np.sqrt(line.get_xdata()), rtol=1e-12)


@pytest.mark.parametrize("num_families", [4, 11, 24])
def test_nothing_written_overlaps(num_families):
    families = tuple(f"family {i}" for i in range(num_families))
    figure = loss_against_sensitivity(
        synthetic(families), title="A title", paper_correlation=0.97, prediction=(10, 0.3, 0.1)
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    small = [text.get_window_extent(renderer) for text in axes.texts]
    beside = [figure.legends[0].get_window_extent(renderer), figure.texts[0].get_window_extent(renderer)]
    boxes = [*small, *beside]
    assert len(small) > 4
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert all(box.x1 < figure.bbox.x1 and box.x0 > axes.bbox.x1 for box in beside)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.8, 2.9, [1.8, 2.0, 2.2, 2.4, 2.6, 2.8]),
        (0.9, 30.0, [1, 2, 5, 10, 20]),
        (1e-4, 2.0, [1e-4, 1e-3, 1e-2, 1e-1, 1]),
    ],
)
def test_ticks(low, high, expected):
    major, minor = log_ticks(low, high)
    np.testing.assert_allclose(major, expected, rtol=1e-12)
    assert ((minor >= low * (1 - 1e-9)) & (minor <= high * (1 + 1e-9))).all()
    assert not np.isclose(minor[:, None], major, rtol=1e-6, atol=0).any()


def test_every_range_has_some_labels_and_not_too_many():
    for decades in np.linspace(0.04, 20, 400):
        for start in (0.013, 1.0, 7.7e3):
            assert 2 <= len(log_ticks(start, start * 10**decades)[0]) <= 10


def test_files_have_the_same_bytes_each_time_and_no_date(tmp_path):
    paths = [
        save_figure(loss_against_sensitivity(synthetic(), prediction=(10, 0.3, 0.1)), tmp_path / name, "fig1")
        for name in ("one", "two")
    ]
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()
    png, pdf = paths[0]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert not any(word in pdf.read_bytes() for word in (b"CreationDate", b"Producer"))
    assert b"Software" not in png.read_bytes()


def test_settings_of_the_caller_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(loss_against_sensitivity(synthetic()), tmp_path, "fig1")
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_neither_jax_nor_pyplot():
    command = (
        "import sys, jaxsens.plotting; print(sorted({'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_number_of_the_whole_cell_has_no_whisker():
    # 0.1's logarithm is not exact, so that a rounded mean of three would miss it.
    rows = [row("a", seed, s, 0.1) for seed, s in enumerate((1.0, 2.0, 3.0))]
    points = figure_one_points(Table.from_rows(rows))
    assert points.y_low.tolist() == points.y.tolist() == points.y_high.tolist() == [0.1]
    assert points.x_low < points.x < points.x_high


def test_linear_axes_have_plain_means_and_take_every_finite_number():
    rows = [row("a", 0, -1.0, 2.0), row("a", 1, 4.0, 8.0), row("b", 0, 0.0, 1.0), row("b", 1, math.inf, 1.0)]
    points = figure_one_points(Table.from_rows(rows), log_x=False)
    assert points.x.tolist() == [1.5, 0.0]
    np.testing.assert_allclose(points.y, [4.0, 1.0], rtol=1e-15)
    assert points.num_left_out == 1
    axes = figure_of_panels([Panel(Table.from_rows(rows), log_x=False)]).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert axes.get_xlim()[0] < -1 < 4 < axes.get_xlim()[1]


def test_columns_of_text_have_no_axis():
    with pytest.raises(TableError, match="got column 'family' without numbers"):
        figure_one_points(synthetic(), x="family")


def test_relabel_gives_a_new_table_and_leaves_its_argument():
    table = synthetic()
    before = table.rows()
    changed = relabel(
        table,
        family=lambda row: f"{row['family']}, {row['scale']:g}",
        half=lambda row: len(row["family"]) / 2,
    )
    assert table.rows() == before
    assert changed.rows()[0] == before[0] | {"family": "AlexNet, 0.5", "half": 3.5}
    assert len(changed) == len(table)
    with pytest.raises(TableError, match="got int in column 'family'"):
        relabel(table, family=lambda row: row["seed"])


def test_relabel_keeps_the_columns_of_a_table_without_rows():
    empty = relabel(synthetic().where(family="none"), half=lambda row: 0.5)
    assert len(empty) == 0
    assert set(empty.columns) == {*synthetic().columns, "half"}


def test_a_family_looks_the_same_in_every_panel():
    table = synthetic()
    some, others = table.where(family=FAMILIES[:2]), table.where(family=FAMILIES[1:])
    first, second = map(markers, figure_of_panels([Panel(some), Panel(others)]).axes)
    assert (list(first), list(second)) == (list(FAMILIES[:2]), list(FAMILIES[1:]))
    for index, family in enumerate(FAMILIES):
        for drawn in (first, second):
            if family in drawn:
                assert drawn[family].get_marker() == look(index).marker
                assert drawn[family].get_markerfacecolor() == look(index).colour


def test_panels_draw_the_points_of_their_tables():
    table = synthetic()
    panels = [Panel(table, y="sensitivity_after"), Panel(table.where(family="VGG13"), x="test_loss")]
    axes = figure_of_panels(panels).axes
    assert [num_drawn(one) for one in axes] == [12, 3]
    points = figure_one_points(table.where(family="VGG13"), x="test_loss")
    np.testing.assert_array_equal(
        markers(axes[1])["VGG13"].get_xydata(), np.column_stack([points.x, points.y])
    )


def test_each_panel_says_its_correlation_and_what_it_left_out():
    table = synthetic()
    points = figure_one_points(table)
    expected = stats.pearson(np.log(points.x), np.log(points.y))
    figure = figure_of_panels(
        [Panel(table, title="(a) all", paper_correlation=0.968), Panel(Table.from_rows(SMALL))], title="Both"
    )
    assert texts(figure) == [
        rf"$\rho$ = {expected.value:.2f} [{expected.low:.2f}, {expected.high:.2f}], n = 12; paper 0.97",
        "(a) all",
        r"$\rho$: needs 3 cells, n = 2",
        "1 of 4 runs left out: diverged, or no finite positive value",
        "Both",
    ]


def test_a_zoom_drops_the_points_outside_and_says_so():
    table = synthetic()
    points = figure_one_points(table)
    limits = zoom_limits(points, FAMILIES[:2])
    whole, part = figure_of_panels([Panel(table, frame=limits), Panel(table, limits=limits)]).axes
    inside = [name in FAMILIES[:2] for name in points.families]
    assert (num_drawn(whole), num_drawn(part)) == (12, 6)
    assert (*part.get_xlim(), *part.get_ylim()) == limits
    found = stats.pearson(np.log(points.x[inside]), np.log(points.y[inside]))
    said = texts(part.figure)[1]
    assert said.startswith(rf"$\rho$ = {found.value:.2f} [")
    assert said.endswith("n = 6 of 12, those inside")


def test_zoom_limits_hold_the_whiskers_of_their_families():
    points = figure_one_points(synthetic())
    x_low, x_high, y_low, y_high = zoom_limits(points, ["VGG13"])
    mine = np.array(points.families) == "VGG13"
    assert x_low < points.x_low[mine].min() < points.x_high[mine].max() < x_high
    assert y_low < points.y_low[mine].min() < points.y_high[mine].max() < y_high
    assert zoom_limits(points, ["not run yet"]) is None


def test_a_frame_is_drawn_and_has_room():
    axes = figure_of_panels([Panel(synthetic(), frame=(1e-3, 1.0, 0.5, 1e3))]).axes[0]
    (rectangle,) = axes.patches
    assert rectangle.get_bbox().extents.tolist() == [1e-3, 0.5, 1.0, 1e3]
    assert axes.get_xlim()[0] <= 1e-3
    assert axes.get_ylim()[1] >= 1e3


def test_marks_are_rings_around_their_points():
    table = synthetic()
    points = figure_one_points(table)
    axes = figure_of_panels([Panel(table, marks={"VGG13 1.0": "this", "not run yet": "that"})]).axes[0]
    (ring,) = (line for line in axes.lines if line.get_markersize() > 8)
    index = points.cells.index("VGG13 1.0")
    assert ring.get_xydata().tolist() == [[points.x[index], points.y[index]]]
    assert [text.get_text() for text in axes.texts].count("this") == 1
    assert "that" not in [text.get_text() for text in axes.texts]


def test_lines_have_a_dash_each_and_the_same_in_every_panel():
    one, two = Line("one", lambda x: x), Line("two", lambda x: np.where(x > 1, 2 * x, np.nan))
    panels = [Panel(synthetic(), lines=(one, two)), Panel(synthetic(), lines=(two,))]
    first, second = (
        {line.get_label(): line for line in axes.lines} for axes in figure_of_panels(panels).axes
    )
    assert first["one"]._dash_pattern != first["two"]._dash_pattern == second["two"]._dash_pattern
    np.testing.assert_allclose(first["two"].get_ydata(), 2 * first["two"].get_xdata(), rtol=1e-12)
    assert len(first["two"].get_xdata()) < len(first["one"].get_xdata())


def test_a_line_far_from_the_points_leaves_them_room():
    axes = figure_of_panels([Panel(synthetic(), lines=(Line("far", lambda x: 1e9 * x),))]).axes[0]
    points = figure_one_points(synthetic())
    assert points.y_high.max() < axes.get_ylim()[1] < 1e3 * points.y_high.max()


def test_a_panel_without_points_says_so():
    diverged = Table.from_rows([row("a", 0, 1.0, 1.0, True)])
    figure = figure_of_panels(
        [
            Panel(synthetic()),
            Panel(Table.from_rows([]), title="(b)", marks={"a": "a"}, frame=(1.0, 2.0, 1.0, 2.0)),
            Panel(diverged),
            Panel(synthetic(), limits=(1e-9, 1e-8, 1.0, 2.0)),
        ]
    )
    notes = [[text.get_text() for text in axes.texts] for axes in figure.axes[1:]]
    assert notes == [["no finished cell"], ["no finished cell"], ["no finished cell inside"]]
    assert "1 of 1 runs left out: diverged, or no finite positive value" in texts(figure)
    assert r"$\rho$: needs 3 cells, n = 0 of 12, those inside" in texts(figure)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figure_of_panels([]), "got 0 panels in 2 columns"),
        (lambda: figure_of_panels([Panel(synthetic())], columns=0), "got 1 panels in 0 columns"),
        (lambda: figure_of_panels([Panel(Table.from_rows([]))]), "got no member that can be drawn in any"),
        (
            lambda: figure_of_panels([Panel(synthetic(), x="sensitivity_aftr")]),
            "did you mean 'sensitivity_af",
        ),
        (
            lambda: figure_of_panels([Panel(synthetic(), lines=(Line("eq", lambda x: x[:1]),))]),
            r"got shape \(1,\) from the line 'eq'",
        ),
        (lambda: Panel(synthetic(), limits=(0.0, 1.0, 1.0, 2.0)), "got limits from 0.0 to 1.0 along x"),
        (lambda: Panel(synthetic(), frame=(1.0, 2.0, 2.0, 1.0)), "got frame from 2.0 to 1.0 along y"),
        (lambda: Panel(synthetic(), limits=(1.0, math.inf, 1.0, 2.0)), "expected finite numbers"),
    ],
)
def test_panels_that_cannot_be_drawn_are_refused(draw, message):
    with pytest.raises(TableError, match=message):
        draw()


def test_one_legend_where_one_panel_names_all_the_rest_and_one_each_otherwise():
    table = synthetic()
    zoomed = [Panel(table), Panel(table.where(family="VGG13")), Panel(Table.from_rows([]))]
    (legend,) = figure_of_panels(zoomed).legends
    assert [text.get_text() for text in legend.get_texts()] == list(FAMILIES)
    apart = [Panel(table.where(family=FAMILIES[:2])), Panel(table.where(family=FAMILIES[1:]))]
    assert [len(legend.get_texts()) for legend in figure_of_panels(apart).legends] == [2, 3]


def test_axes_say_what_they_show():
    table = relabel(synthetic(), logit_variance=lambda row: 1.0)
    panels = [Panel(table, y="logit_variance"), Panel(table, x_label="x here", y_label="y here")]
    first, second = figure_of_panels(panels).axes
    assert first.get_ylabel().startswith("variance of the mean logit")
    assert (second.get_xlabel(), second.get_ylabel()) == ("x here", "y here")


def crowded(num_panels, *, own):
    """Panels of ten families each, the same in all panels or not, with all that can be written on them."""
    tables = [
        synthetic(tuple(f"family {number} with a name of some length" for number in range(start, start + 10)))
        for start in (10 * panel * own for panel in range(num_panels))
    ]
    return [
        Panel(
            relabel(table, diverged=lambda row: row["seed"] == 3),
            title=r"(a) $\sigma_x^2 = 0.26$ and a title that goes on far beyond the end of the axes",
            lines=(Line("equation (9)", lambda s: equation_9(s, Prediction(10, 0.3, 0.1))),),
            paper_correlation=0.97,
            marks={table.cells()[0]: "450k"},
            x_label="a label that is too long for the width of one panel, so that it breaks",
            y_label="a label that is too long for the height of one panel",
        )
        for table in tables
    ]


@pytest.mark.parametrize(
    ("num_panels", "columns", "own"),
    [
        (1, 2, False),
        (3, 2, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, 2, True), (3, 2, False), (2, 3, False), (2, 3, True))
        ),
    ],
)
def test_nothing_written_on_panels_overlaps_or_is_cut(num_panels, columns, own):
    figure = figure_of_panels(crowded(num_panels, own=own), columns=columns, title="A title")
    renderer = FigureCanvasAgg(figure).get_renderer()
    # With its tick labels, its two labels, and what is written inside it.
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [written.get_window_extent(renderer) for written in (*figure.texts, *figure.legends)]
    assert len(boxes) == 4 * num_panels + 1 + (num_panels if own else 1)
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    for axes in figure.axes:
        small = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(small) > 2
        assert all(not box.overlaps(other) for i, box in enumerate(small) for other in small[:i])


def test_two_columns_have_the_width_of_a_page():
    panels = [Panel(synthetic())] * 3
    assert [figure_of_panels(panels[:n]).get_figwidth() for n in (1, 2, 3)] == [3.5, 7.0, 7.0]


@pytest.mark.parametrize("low", [3.1e-6, 0.0013, 0.7, 4e4])
@pytest.mark.parametrize("log", [True, False])
def test_tick_labels_of_a_panel_do_not_touch(low, log):
    table = relabel(synthetic(), test_loss=lambda row: 1.0, sensitivity_after=lambda row: 1.001 * low)
    panels = [
        Panel(table, limits=(low, low * 10**d, 0.5, 2.0), log_x=log) for d in (0.05, 0.3, 0.69, 1, 2, 3, 9)
    ]
    figure = figure_of_panels(panels)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        drawn = [text for text in axes.get_xticklabels() if text.get_text()]
        boxes = sorted((text.get_window_extent(renderer) for text in drawn), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_panels_have_the_same_bytes_each_time_and_settings_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    paths = [
        save_figure(figure_of_panels(crowded(1, own=True)), tmp_path / name, "panels")
        for name in ("one", "two")
    ]
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert dict(matplotlib.rcParams) == before
