"""The report in Debian's Chromium: it draws, it answers, it stays off the network, and no title runs as a script.

`make test` installs the browser; without one these tests fail.
"""

from __future__ import annotations

import shutil

import pytest
from made_up_run import TITLES, write_run
from playwright.sync_api import expect, sync_playwright

from pplr.report import write_report

PATIENCE = 180_000
"""Milliseconds: reading 5 MB of plotly takes a second, and much longer on a busy machine."""

EVIL = "<script>window.taken = true</script><img src=x onerror='window.taken = true'>"


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("These tests need Chromium: run `make test`, or `apt-get install chromium`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    """Return the page, and what it said and asked for while it was used."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    names = ["north <b>bold</b>", f"south {EVIL}", "east", "west"]
    path = write_report(write_run(folder, client_names=names, rounds=6, titles=[EVIL, *TITLES]))
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(PATIENCE)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page, said, asked, path.as_uri()
    page.close()


@pytest.fixture
def page(opened):
    return opened[0]


def test_all_sections_and_plots_are_there(page):
    for section in ("clients", "rounds", "mixing", "examples", "cost", "data", "configuration"):
        expect(page.locator(f"section#{section} h2")).to_be_visible(timeout=PATIENCE)
    plots = page.locator(".plot")
    assert plots.count() == 7
    for place in range(plots.count()):
        expect(plots.nth(place).locator("svg.main-svg").first).to_be_visible(timeout=PATIENCE)
    assert page.locator("#plot-quality .point").count() == 4 * 6  # four clients; the run and five baselines
    assert page.locator("[data-curve=training_loss] .js-line").count() == 4


def test_the_slider_moves_through_the_rounds(page):
    def shown():
        return page.evaluate("document.getElementById('plot-heat').data[0].z")

    payload = page.evaluate("JSON.parse(document.getElementById('payload').textContent).heat")
    slider = page.get_by_role("slider")
    assert shown() == payload["values"]["mixing"][5]
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#round-shown")).to_have_text("1", timeout=PATIENCE)
    assert shown() == payload["values"]["mixing"][0]
    page.keyboard.press("ArrowRight")
    expect(page.locator("#round-shown")).to_have_text("2", timeout=PATIENCE)
    page.get_by_label("similarity s").check()
    assert shown() == payload["values"]["similarity"][1]
    assert slider.get_attribute("aria-valuetext") == "round 2"


def test_another_measure_changes_plot_and_tables(page):
    page.get_by_label("Measure", exact=True).select_option("recall@50")
    expect(page.locator("[data-measure='recall@50']")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-measure='ndcg@10']")).to_be_hidden(timeout=PATIENCE)
    assert page.locator("#plot-quality .xtitle").text_content() == "Recall@50"


def test_narrow_windows_need_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("() => document.getElementById('plot-quality').getBoundingClientRect().width < 360")
    page.wait_for_function(
        "() => document.querySelector('#plot-quality .main-svg').getBoundingClientRect().width < 360"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1280, "height": 900})


def test_dark_windows_get_light_ink(page):
    def ink():
        return page.evaluate("document.getElementById('plot-heat').layout.font.color")

    before = ink()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(before) => document.getElementById('plot-heat').layout.font.color !== before", arg=before)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    page.emulate_media(color_scheme="light")


def test_titles_and_names_are_text(page):
    assert page.evaluate("window.taken") is None
    assert page.locator("img").count() == 0
    assert EVIL in page.locator("section#examples").inner_text()
    labels = " ".join(page.locator("#plot-quality .ytick").all_text_contents())
    assert "north <b>bold</b>" in labels


def test_no_error_and_no_request(opened):
    _, said, asked, address = opened
    assert said == []
    assert asked == [address]
