"""The contact sheet's page uses the window's width."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from dataprep.look.contact_sheet import write_contact_sheet
from dataprep.look.pick import Choice
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_request

pytestmark = pytest.mark.web


def test_a_wide_window_has_several_columns_and_a_narrow_one_no_scroll_bar(tmp_path: Path) -> None:
    request = toy_request(tmp_path, tmp_path / "out", draws_per_image=2)
    build_alone(request)
    write_contact_sheet(request.out, tmp_path / "sheet.html", Choice(12))
    chromium = shutil.which("chromium")
    assert chromium, "no chromium here; `make test-web` installs it"
    columns = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "sheet.html").as_uri())
        for width in (360, 840, 1366, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            boxes = [figure.bounding_box() for figure in page.query_selector_all("figure")]
            columns[width] = len({box["x"] for box in boxes if box})
            rows = {image.bounding_box()["y"] for image in page.query_selector_all("figure:first-child img")}  # type: ignore[index]
            assert len(rows) == 1  # picture, mask and exemplar stay beside each other
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / "sheet.png")
        browser.close()
    assert columns == {360: 1, 840: 2, 1366: 3, 1920: 4}
