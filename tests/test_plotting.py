"""The numbers drawn are those of the table, and the files hold nothing but the picture."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxsens import stats
from jaxsens.plotting import (
    Prediction,
    equation_9,
    figure_one_points,
    loss_against_sensitivity,
    save_figure,
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
