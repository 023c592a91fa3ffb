"""Reports in a real browser: what is drawn are the figures' numbers, and it answers to clicks and keys."""

import math
import os
import re
import shutil

import numpy as np
import pytest

from jaxsens import stats
from jaxsens.plotting import figure_one_points
from jaxsens.report import write_report
from jaxsens.table import Table, write_manifest, write_table

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'jaxsens[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>net</b> & co"
FAMILIES = ("F0", "F1 <i>& co</i>", "F2", "F3")
# Milliseconds, for machines that have much else to do.
PATIENCE = 120_000
COLUMNS = ("test_loss", "sensitivity_after", "test_accuracy")


def networks():
    """Cells of several seeds with all that can go wrong in one, and two more measured on the way."""
    rng = np.random.default_rng(0)
    for cell in range(12):
        for seed in range(1 if cell == 10 else 3):
            loss = float(np.exp(rng.normal() + cell / 4))
            yield {
                "cell": HOSTILE if cell == 5 else f"net-{cell}",
                "family": FAMILIES[cell % 4],
                "seed": seed,
                "test_loss": math.nan if (cell, seed) == (3, 1) else loss,
                "train_loss": 1e-7 * loss,
                # Nothing finite in cell 7, nothing at all in cell 8, ties in the first five.
                "sensitivity_after": [loss**2, math.inf, None][max(0, cell - 6) if cell in (7, 8) else 0],
                "test_accuracy": 0.5 if cell < 5 else round(float(rng.uniform()), 3),
                "diverged": cell == 9 or (cell, seed) == (2, 0),
            }
    for cell in ("net-0", "net-1"):
        for snapshot in range(4):
            for seed in range(2):
                yield {
                    "cell": cell,
                    "family": FAMILIES[0],
                    "seed": seed,
                    "snapshot": snapshot,
                    "epochs": snapshot,
                    "test_loss": 3.0 - snapshot / 2 + seed,
                    "diverged": False,
                }


@pytest.fixture(scope="module")
def table():
    return Table.from_rows(networks())


@pytest.fixture(scope="module")
def ends(table):
    """The rows at the end of training."""
    return Table.from_rows(row for row in table.rows() if row["snapshot"] is None)


@pytest.fixture(scope="module")
def report(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_table(table, folder)
    manifest = {"experiment": HOSTILE, "missing_cells": [HOSTILE], "cells": {HOSTILE: {"class": "Cell"}}}
    write_manifest(folder, manifest)
    (folder / "numbers.csv").write_text('"name","value"\n"b",2\n"a",10\n"c",\n')
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        # Without its sandbox where the tests run as root, which Chromium refuses otherwise.
        options = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, report):
    """The report, drawn; whatever it said on the console or asked of the network is an error at the end."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(PATIENCE)
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(report.as_uri())
    opened.wait_for_selector("html[data-ready=yes]")
    yield opened
    hacked = opened.evaluate("window.hacked")
    opened.close()
    assert hacked is None
    assert complaints == []
    assert requests
    assert all(re.match("(file|data|blob):", url) for url in requests), requests


def drawn(page):
    """The plotted points by the number of their network: x, y and the ends of their whiskers."""
    found = page.evaluate(
        """() => document.getElementById("plot").data.filter((trace) => trace.customdata).flatMap((trace) =>
            trace.x.map((x, i) => trace.customdata[i] === null ? null : [trace.customdata[i], [
                x, x - trace.error_x.arrayminus[i], x + trace.error_x.array[i],
                trace.y[i], trace.y[i] - trace.error_y.arrayminus[i], trace.y[i] + trace.error_y.array[i],
            ]])).filter(Boolean)"""
    )
    return np.array([numbers for _, numbers in sorted(found)])


def wanted(table, x, y, log):
    points = figure_one_points(table, x=x, y=y, log_x=log, log_y=log)
    return points, np.stack(
        [points.x, points.x_low, points.x_high, points.y, points.y_low, points.y_high], axis=1
    )


def set_axes(page, x, y, log):
    for axis, name in (("x", x), ("y", y)):
        page.select_option(f"#{axis}", name)
        page.set_checked(f"#log-{axis}", log)


def column(page, label, table="#networks"):
    """The texts of one column, by its header, in the order of the rows."""
    header = page.locator(f"{table} thead th").filter(has_text=re.compile(f"^{label}$"))
    index = header.evaluate("(header) => header.cellIndex")
    return page.locator(f"{table} tbody tr:not(.seed)").evaluate_all(
        f"(rows) => rows.map((row) => row.cells[{index}].textContent)"
    )


def names(page):
    """The networks in the order of the rows, without the tag of those that diverged."""
    shown = page.locator("#networks tbody .opener > span")
    return shown.evaluate_all("(names) => names.map((name) => name.firstChild.textContent)")


def header(page, label, table="#networks"):
    return page.locator(f"{table} thead th").filter(has_text=re.compile(f"^{label}$"))


@pytest.mark.parametrize("log", [True, False])
def test_the_points_are_those_of_the_figures(page, ends, log):
    set_axes(page, "sensitivity_after", "test_loss", log)
    points, numbers = wanted(ends, "sensitivity_after", "test_loss", log)
    np.testing.assert_allclose(drawn(page), numbers, rtol=1e-12)
    note = page.locator("#plot-note").text_content()
    coordinates = [np.log(values) if log else values for values in (points.x, points.y)]
    assert note.startswith(f"{len(points.x)} networks;")
    assert f"Kendall’s τ {stats.kendall(*coordinates).value:.2f}" in note
    assert f"Pearson’s ρ of what the axes show {stats.pearson(*coordinates).value:.2f}" in note
    assert f"{points.num_left_out} seeds left out" in note


def test_choosing_an_axis_changes_the_plot(page, ends):
    set_axes(page, "sensitivity_after", "test_loss", False)
    before = drawn(page)
    set_axes(page, "test_accuracy", "test_loss", False)
    points, numbers = wanted(ends, "test_accuracy", "test_loss", False)
    np.testing.assert_allclose(drawn(page), numbers, rtol=1e-12)
    assert drawn(page).shape != before.shape
    assert page.locator("#plot .xtitle").text_content() == "test accuracy"
    # With ties, tau-b.
    assert f"τ {stats.kendall(points.x, points.y).value:.2f}" in page.locator("#plot-note").text_content()
    # To save a picture, zoom, move and go back; Plotly also has a button that sends the plot to its maker.
    assert page.locator("#plot .modebar-btn").count() == 4
    assert page.locator("#x optgroup").evaluate_all("(all) => all.map((one) => one.label)") == ["Measures"]


def test_hovering_a_point_shows_the_network_and_its_seeds(page, ends):
    set_axes(page, "test_accuracy", "test_loss", True)
    traces = page.evaluate('document.getElementById("plot").data.map((trace) => [...trace.customdata])')
    cells = ends.cells()
    for name in ("net-4", HOSTILE):
        trace = next(index for index, own in enumerate(traces) if cells.index(name) in own)
        markers = page.locator("#plot .scatterlayer .trace").nth(trace).locator(".points path")
        marker = markers.nth(traces[trace].index(cells.index(name)))
        marker.scroll_into_view_if_needed()
        box = marker.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        label = page.locator("#plot .hoverlayer .hovertext")
        label.wait_for()
        text = label.text_content()
        members = ends.where(cell=name).rows()
        assert name in text
        for row in members:
            assert f"seed {row['seed']}: " in text
            assert f"{row['test_loss']:.4g}"[:4] in text
        page.mouse.move(0, 0)
        label.wait_for(state="detached")


def test_the_table_has_the_means_and_deviations_over_seeds(page, ends):
    aggregate = ends.aggregate(values=COLUMNS)
    for label, name in (
        ("test loss", "test_loss"),
        ("sensitivity after training", "sensitivity_after"),
        ("test accuracy", "test_accuracy"),
    ):
        texts = column(page, label)
        assert len(texts) == 12
        for text, row in zip(texts, aggregate.rows(), strict=True):
            mean, std, count = (row[f"{name}_{what}"] for what in ("mean", "std", "count"))
            used = row["num_members"] - row["num_diverged"]
            if not used:
                assert text == "diverged"
            elif not count:
                assert text in ("inf", "none")
            elif std is None:
                assert float(text) == pytest.approx(mean, rel=1e-3)
            else:
                value, deviation, power, few = re.fullmatch(
                    r"\(?([-\d.]+) ± ([\d.]+)\)?(e-?\d+)?( \(\d of \d\))?", text
                ).groups()
                scale = float("1" + (power or ""))
                assert float(deviation) * scale == pytest.approx(std, rel=0.06)
                assert float(value) * scale == pytest.approx(mean, abs=max(0.06 * std, 1e-3 * mean))
                assert (few == f" ({count} of {used})") if count < used else few is None
    assert column(page, "sensitivity after training")[7:9] == ["inf", "none"]


def test_headers_sort_numerically_with_what_is_none_last_and_keep_ties_in_order(page, ends):
    means = {row["cell"]: row["sensitivity_after_mean"] for row in ends.aggregate(values=COLUMNS).rows()}
    by_mean = sorted((name for name in means if means[name] is not None), key=means.get)
    sensitivity = header(page, "sensitivity after training")
    assert sensitivity.get_attribute("aria-sort") == "none"
    sensitivity.get_by_role("button").click()
    assert sensitivity.get_attribute("aria-sort") == "ascending"
    # Infinity is greater than any number; none (net-8) and diverged (net-9) are last, in the order they had.
    assert names(page) == [*by_mean, "net-7", "net-8", "net-9"]
    sensitivity.get_by_role("button").press("Enter")
    assert sensitivity.get_attribute("aria-sort") == "descending"
    assert page.locator("#networks [aria-sort=descending]").count() == 1
    down = names(page)
    assert down == ["net-7", *by_mean[::-1], "net-8", "net-9"]
    # Four families, three cells each: the order by sensitivity stays within them.
    family = header(page, "family")
    family.get_by_role("button").press("Space")
    assert family.get_attribute("aria-sort") == "ascending"
    assert sensitivity.get_attribute("aria-sort") == "none"
    families = dict(zip(names(page), column(page, "family"), strict=True))
    assert names(page) == sorted(down, key=families.get)


def test_a_name_opens_its_seeds(page, ends):
    opener = page.locator("#networks .opener").filter(has_text=re.compile("^net-3$"))
    opener.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    place = header(page, "test loss").evaluate("(header) => header.cellIndex")
    seeds = page.locator("#networks tr.seed").evaluate_all(
        f"(rows) => rows.map((row) => [row.cells[0].textContent, row.cells[{place}].textContent])"
    )
    losses = ends.where(cell="net-3").column("test_loss")
    assert [name for name, _ in seeds] == ["seed 0", "seed 1", "seed 2"]
    assert seeds[1][1] == "NaN"
    assert [float(text) for _, text in seeds] == pytest.approx(losses.tolist(), rel=1e-6, nan_ok=True)
    opener.press("Enter")
    assert page.locator("#networks tr.seed").count() == 0


def test_measurements_on_the_way_are_points_of_their_own(page, table):
    page.select_option("#when", "way")
    set_axes(page, "epochs", "test_loss", False)
    found = drawn(page)
    assert found.shape == (8, 6)
    np.testing.assert_allclose(found[:, 0], [0, 1, 2, 3] * 2)
    np.testing.assert_allclose(found[:, 3], [3.5, 3.0, 2.5, 2.0] * 2)
    np.testing.assert_allclose(found[:, 5] - found[:, 4], 1)
    assert column(page, "epoch") == ["0", "1", "2", "3"] * 2


def test_the_filter_the_legend_and_the_columns_say_what_is_shown(page):
    set_axes(page, "test_accuracy", "test_loss", False)
    page.fill("#filter", "F1")
    sync_api.expect(page.locator("#table-note")).to_have_text("3 of 20 rows.")
    assert names(page) == ["net-1", HOSTILE, "net-9"]
    assert len(drawn(page)) == 2
    page.fill("#filter", "")
    sync_api.expect(page.locator("#table-note")).to_have_text("12 of 20 rows.")
    legend = page.locator("#plot .legendtext").all_text_contents()
    assert legend == list(FAMILIES)
    page.locator("#plot .legendtoggle").nth(0).click()
    sync_api.expect(page.locator("#plot-note")).to_contain_text(re.compile("^8 networks;"))
    page.locator(".chooser summary").click()
    page.locator("#columns").get_by_label("train loss").uncheck()
    assert header(page, "train loss").count() == 0
    page.locator("#columns").get_by_label("test minus training loss").check()
    assert len(column(page, "test minus training loss")) == 12


def test_summaries_sort_and_the_manifest_opens(page):
    page.locator("#part-numbers summary").click()
    value = header(page, "value", "#numbers-0")
    value.get_by_role("button").click()
    assert column(page, "name", "#numbers-0") == ["b", "a", "c"]
    value.get_by_role("button").click()
    assert column(page, "name", "#numbers-0") == ["a", "b", "c"]
    page.locator("#manifest > summary").click()
    cell = page.locator("#manifest-text details summary")
    assert cell.text_content() == HOSTILE
    cell.click()
    assert '"class": "Cell"' in page.locator("#manifest-text details pre").text_content()


def test_dark_light_and_paper_have_their_colours(page):
    title = page.locator("#plot .xtitle")
    sync_api.expect(title).to_have_css("fill", "rgb(51, 51, 51)")  # plotting.style's INK
    page.emulate_media(color_scheme="dark")
    sync_api.expect(page.locator("body")).to_have_css("color", "rgb(227, 227, 224)")
    sync_api.expect(title).to_have_css("fill", "rgb(227, 227, 224)")
    # On paper it is light again, and as wide as a page; afterwards it is as before.
    width = page.locator("#plot .main-svg").first.get_attribute("width")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    sync_api.expect(title).to_have_css("fill", "rgb(34, 34, 34)")
    sync_api.expect(page.locator("#plot .main-svg").first).to_have_attribute("width", "680")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    sync_api.expect(title).to_have_css("fill", "rgb(227, 227, 224)")
    sync_api.expect(page.locator("#plot .main-svg").first).to_have_attribute("width", width)


def test_a_phone_needs_no_sideways_scrolling(browser, report):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
