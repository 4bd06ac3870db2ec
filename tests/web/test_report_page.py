"""The page of a report or a comparison fits its window: on a phone only wide tables scroll sideways."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from evaluation.reports.page import Gallery, Shown, page
from evaluation.reports.tables import Table

pytestmark = pytest.mark.web


def test_pictures_and_sentences_fit_every_window(tmp_path: Path) -> None:
    pictures = {name: Image.new("RGB", (640, 427), name) for name in ("red", "green", "blue", "gray")}
    verdict = "no interval: too few cases; 5 cases infinite in a alone, left out; 12 cases not in both " * 2
    table = Table("b minus a", ["", "difference", "verdict"], [["score ↑", "+1.00", verdict]])
    shown = Gallery("cases", [Shown("key · score 1.00 · error 2.00", pictures)] * 2)
    (tmp_path / "report.html").write_text(page("a and b", [table], [shown]))
    chromium = shutil.which("chromium")
    assert chromium, "no chromium here; `make test-web` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page()
        window.goto((tmp_path / "report.html").as_uri())
        rows = {}
        for width in (390, 1400):
            window.set_viewport_size({"width": width, "height": 800})
            assert window.evaluate("document.documentElement.scrollWidth") <= width
            images = window.query_selector_all("figure:first-child img")
            rows[width] = len({image.bounding_box()["y"] for image in images})  # type: ignore[index]
        assert rows == {390: 2, 1400: 1}
        assert window.evaluate("document.querySelector('div.wide').scrollWidth") <= 1400 - 2 * 14
        images[0].click()
        assert images[0].bounding_box()["width"] == 640  # type: ignore[index]
        window.set_viewport_size({"width": 390, "height": 800})
        assert window.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()


def test_a_picture_alone_has_its_size_and_a_caption_that_can_be_read(tmp_path: Path) -> None:
    picture = {"result": Image.new("RGB", (512, 512), "red")}
    shown = Gallery(
        "cases", [Shown("Direct Inversion + P2P · error 0.00e+00 · background 17.21 dB", picture)] * 3
    )
    (tmp_path / "report.html").write_text(page("a", [], [shown]))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page()
        window.goto((tmp_path / "report.html").as_uri())
        for width in (390, 1400):
            window.set_viewport_size({"width": width, "height": 800})
            assert window.evaluate("document.documentElement.scrollWidth") <= width
            [size, *others] = [image.bounding_box()["width"] for image in window.query_selector_all("img")]
            assert {size, *others} == {224}
            caption = window.query_selector("figcaption").bounding_box()
            assert caption["width"] > 3 * caption["height"] / 2
        browser.close()
