"""The page of a comparison: one file that asks nobody for anything, and controls that do what they say."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.compare import Comparison, compare, load_runs
from experiments.compare_page import COLOURS, band, compare_page, coordinates, curves, dimension, drawn, number
from tests.experiments.written_runs import falling, write_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two groups of two runs; a name with markup in it."""
    for lr, end in ((0.1, 3.0), (0.2, 3.4)):
        for seed in (2, 3):
            place = tmp_path / "runs" / f"{lr}-{seed}"
            write_record(place, falling(end + seed / 100), name="<b>small</b>", optim__lr=lr, seed=seed)
    return compare(load_runs(tmp_path / "runs"))


def data(page: str, name: str) -> Any:
    """What a constant of the page's script holds."""
    return json.loads(re.search(rf"^const {name} = (.*);$", page, re.MULTILINE)[1])


def test_the_page_says_what_the_comparison_says_and_asks_for_nothing(comparison: Comparison) -> None:
    page = compare_page(comparison)
    assert f"<h1>{comparison.contrasts[0].sentence}</h1>" in page
    assert comparison.partings[0].sentence in page
    ours = page[: page.index("<script>")] + page[page.rindex("<script>") :]
    assert re.findall(r"""(?:src|href)=["']|https?://|@import|url\(""", ours) == []
    assert "Plotly" in page
    assert page.count("<script>") == page.count("</script>") == 2


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    for name, lr in (("</script><b>", 0.1), ("b", 0.2)):
        write_record(tmp_path / f"{lr}", falling(3.0), name=name, optim__lr=lr)
    page = compare_page(compare(load_runs(tmp_path)))
    assert "</script><b>" not in page
    assert [run["label"] for run in data(page, "DATA")["runs"]] == ["</script><b>", "b"]


def test_curves_have_their_raw_and_smooth_values_on_every_axis(comparison: Comparison) -> None:
    found = curves(comparison)
    assert found["axes"] == ["step", "tokens", "seconds"]
    assert [run["colour"] for run in found["runs"]] == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]
    first = found["curves"]["train/loss"][0]
    assert first["step"] == list(range(1, 21))
    assert first["tokens"][0] == 32
    assert first["raw"][-1] == 3.02
    assert first["smooth"] == first["raw"]  # five per cent of twenty points is one point
    assert [len(curve["raw"]) for curve in found["curves"]["val/loss"]] == [1, 1, 1, 1]


def test_a_group_has_its_mean_and_one_standard_deviation_to_both_sides(comparison: Comparison) -> None:
    first, second = curves(comparison)["means"]["train/loss"]
    assert (first["group"], second["group"]) == ("lr=0.1", "lr=0.2")
    last = {name: column[-1] for name, column in first["step"].items()}
    spread = 0.01 / 2**0.5  # of two numbers that are 0.01 apart
    assert last == pytest.approx({"x": 20, "mean": 3.025, "low": 3.025 - spread, "high": 3.025 + spread}, abs=1e-4)
    assert curves(comparison)["means"]["val/loss"] == []  # one evaluation is no curve


def test_curves_that_do_not_meet_have_no_mean() -> None:
    assert band([([1.0, 2.0], [3.0, 3.0]), ([2.0, 3.0], [3.0, 3.0])]) is None
    assert band([([1.0, None], [3.0, 3.0]), ([1.0, 3.0], [3.0, 3.0])]) is None
    assert band([([1.0, 2.0], [3.0, 3.0])]) is None


def test_long_curves_are_thinned_and_of_many_runs_the_best_are_drawn(tmp_path: Path) -> None:
    for place in range(63):
        write_record(tmp_path / f"{place:02}", falling(3 + place / 100, steps=500 if place == 0 else 2), seed=place)
    comparison = compare(load_runs(tmp_path))
    assert len(drawn(comparison)) == 60
    found = curves(comparison)
    (longest,) = (curve for curve in found["curves"]["train/loss"] if curve["run"] == 0)
    assert (len(longest["raw"]), longest["step"][0], longest["step"][-1]) == (400, 1, 500)
    assert "The best 60 of 63 runs are drawn." in compare_page(comparison)


def test_parallel_coordinates_have_the_settings_and_the_result(comparison: Comparison) -> None:
    found = coordinates(comparison)
    assert [axis["label"] for axis in found["dimensions"]] == ["lr", "seed", "best val/bits_per_byte"]
    assert found["dimensions"][-1]["values"] == comparison.results["best"].tolist()


def test_an_axis_fits_its_values() -> None:
    assert dimension("norm", ["before", None, "after"])["values"] == [1, 2, 0]
    assert dimension("lr", [1e-4, 1e-2])["values"] == [-4, -2]
    assert dimension("lr", [1e-4, 1e-2])["ticktext"] == ["0.0001", "0.01"]
    assert dimension("steps", list(range(20))) == {"label": "steps", "values": list(map(float, range(20)))}


def test_a_run_without_a_value_is_shown_with_a_dash(comparison: Comparison, tmp_path: Path) -> None:
    write_record(tmp_path / "runs" / "empty", falling(3.0)[:5], optim__lr=0.3)
    page = compare_page(compare(load_runs(tmp_path / "runs")))
    assert "<td>-</td>" in page
    assert number(2.34567) == "2.346"


@pytest.fixture
def browser() -> Iterator[Any]:
    """The machine's own Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed, none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


PLOT = "document.getElementById('curves')"


@pytest.mark.slow
def test_the_controls_of_the_page_work_in_a_browser(browser: Any, comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(compare_page(comparison))
    errors: list[str] = []
    asked: list[str] = []
    page = browser.new_page(color_scheme="light")
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("#curves .legendtoggle")

    def shown() -> list[Any]:
        return page.evaluate(f"{PLOT}.data.filter((each) => each.showlegend).map((each) => each.visible)")

    assert shown() == [True] * 4
    page.locator("#curves .legendtoggle").nth(1).click()
    page.wait_for_function(f"{PLOT}.data.some((each) => each.visible === 'legendonly')")
    assert shown() == [True, "legendonly", True, True]
    page.click("#log-y")
    assert page.evaluate(f"{PLOT}._fullLayout.yaxis.type") == "log"
    assert page.get_attribute("#log-y", "aria-pressed") == "true"
    assert shown() == [True, "legendonly", True, True]
    page.click("[data-axis=seconds]")
    assert page.evaluate(f"{PLOT}.data[0].x[0]") == 0.5
    page.click("#raw")
    assert page.evaluate(f"{PLOT}.data.length") == 4
    page.select_option("#metric", "val/loss")
    assert page.evaluate(f"{PLOT}._fullLayout.yaxis.title.text") == "val/loss"
    page.select_option("#metric", "train/loss")
    page.click("#means")
    assert page.evaluate(f"{PLOT}.data.filter((each) => each.name.startsWith('mean of ')).length") == 2 * 3
    page.click("#none")
    page.click("#all")
    page.wait_for_function(f"{PLOT}.data.every((each) => each.visible === true)")
    light = page.evaluate(f"{PLOT}._fullLayout.font.color")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{PLOT}._fullLayout.font.color !== '{light}'")
    assert errors == []
    assert [url for url in asked if url.startswith("http")] == []
