"""The page in a real browser: Debian's Chromium without a window paints a mask with the mouse and edits.

`make test-web` runs these; they are left out elsewhere, since they need the browser. WEB_SCREENSHOT=FILE.png
keeps a picture of the page as the first test leaves it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from intarsia.weights import save_model
from sampling.pictures import read_picture
from sampling.provenance import read_provenance
from tests.paths import COCO_MINI, ROOT
from tests.sampling.tiny import tiny_model

PICTURE = COCO_MINI / "images" / "000000017029.jpg"
EXEMPLAR = ROOT / "examples/edits/hydrant.exemplar.jpg"
PATIENCE = 120_000  # milliseconds; a busy machine takes its time

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own process, as a user starts it."""
    folder = tmp_path_factory.mktemp("web")
    save_model(tiny_model(2), folder / "model")
    options = ["--model", folder / "model", "--port", 0, "--device", "cpu", "--input", COCO_MINI / "images"]
    command = [sys.executable, "-m", "sampling", "serve", *map(str, options)]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        ready = next((line for line in server.stderr if line.startswith("ready on ")), "")
        yield re.search(r"http://\S+", ready)[0]  # type: ignore[index]
        server.terminate()
        server.wait(30)
    assert not list(folder.glob("intarsia-serve-*")), "what visitors brought goes with the server"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium here; `make test-web` installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Visit:
    """A page that was opened, and everything it complained of or asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _failed(self, request: object) -> None:
        if request.failure != "net::ERR_ABORTED":  # type: ignore[attr-defined] # the page's own change of mind
            self.errors.append(f"{request.url}: {request.failure}")  # type: ignore[attr-defined]

    def drop(self, slot: str, path: Path) -> None:
        self.page.set_input_files(f"#{slot} input[type=file]", path)
        expect(self.page.locator(f"#{slot} img")).to_be_visible(timeout=PATIENCE)

    def setting(self, name: str, value: int) -> None:
        field = self.page.locator(f"#{name} input[type=number]")
        field.fill(str(value))
        field.press("Tab")

    def edit(self, tmp_path: Path) -> list[Path]:
        """Press the button; the downloads."""
        self.page.click("#go")
        expect(self.page.locator("#files a").first).to_be_visible(timeout=PATIENCE)
        paths = []
        for number, link in enumerate(self.page.locator("#files a").all()):
            with self.page.expect_download(timeout=PATIENCE) as download:
                link.click()
            paths.append(tmp_path / f"{number}.png")
            download.value.save_as(paths[-1])
        return paths


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1400})
    page.set_default_timeout(PATIENCE)
    visit = Visit(page)
    page.goto(address)
    yield visit
    page.close()
    assert visit.errors == []
    here = (address, "data:", "blob:" + address)
    assert [url for url in visit.asked if not url.startswith(here)] == []
    assert len(visit.asked) > 10, "requests are seen at all"


def stroke(visit: Visit) -> tuple[float, float, float, float]:
    """Draw a bar with the mouse across the middle; its ends as shares of the picture (x0, y0, x1, y1)."""
    canvas = visit.page.locator("#editor canvas").first
    expect(canvas).to_be_visible(timeout=PATIENCE)
    visit.page.wait_for_function("() => !document.querySelector('#editor .wrap.generating, #editor .loader')")
    visit.page.wait_for_timeout(2000)  # the editor fits the picture to its frame, and has no sign for "done"
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = visit.page.mouse
    mouse.move(x - 60, y)
    mouse.down()
    for row in (0, 20, 40):
        mouse.move(x - 60, y + row, steps=5)
        mouse.move(x + 60, y + row, steps=15)
    mouse.up()
    visit.page.wait_for_timeout(500)
    return x, y, box["width"], box["height"]


def test_a_painted_mask_changes_the_picture_inside_it_only(visit: Visit, tmp_path: Path) -> None:
    visit.drop("picture", PICTURE)
    visit.drop("exemplar", EXEMPLAR)
    visit.setting("steps", 3)
    visit.setting("seed", 11)
    visit.setting("number", 2)
    stroke(visit)
    results = visit.edit(tmp_path)
    if "WEB_SCREENSHOT" in os.environ:
        visit.page.screenshot(path=os.environ["WEB_SCREENSHOT"], full_page=True)
    picture = read_picture(PICTURE)
    height, width = picture.shape[:2]
    changed = [(read_picture(path) != picture).any(-1) for path in results]
    assert len(changed) == 2
    for one in changed:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        # The bar of the mouse, wider by the brush, and nothing else; it lies in the middle.
        assert 0.2 < (columns[-1] - columns[0]) / width < 0.6
        assert 0.05 < (rows[-1] - rows[0]) / height < 0.4
        assert abs((columns[0] + columns[-1]) / 2 / width - 0.5) < 0.05
        inside = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.mean() > 0.7, "all of the bar was repainted, but for its round corners"
    assert (read_picture(results[0]) != read_picture(results[1])).any(), "two seeds"
    told = [read_provenance(path) for path in results]
    assert [one.seed for one in told] == [11, 12]
    assert told[0].settings["num_inference_steps"] == 3
    for one in changed:  # exactly the painted mask, which the server kept for as long as it runs
        with Image.open(told[0].mask.path) as image:
            assert not one[~np.asarray(image)].any()
    assert visit.page.locator("#gallery img").count() >= 2
    expect(visit.page.locator("#slider img").first).to_be_visible()
    expect(visit.page.locator("#notes")).to_contain_text("Painted in")


def test_a_mistake_is_a_sentence_on_the_page(visit: Visit) -> None:
    visit.page.click("#go")
    expect(visit.page.get_by_text("there is no picture yet; drop one into field 1")).to_be_visible(
        timeout=PATIENCE
    )
    visit.drop("picture", PICTURE)
    visit.drop("exemplar", EXEMPLAR)
    visit.page.click("#go")
    expect(visit.page.get_by_text("nothing is marked yet")).to_be_visible(timeout=PATIENCE)


def test_an_example_and_an_offered_picture_fill_the_page(visit: Visit, tmp_path: Path) -> None:
    visit.page.locator("table tr", has=visit.page.locator("img")).first.click()
    for slot in ("picture", "exemplar"):
        expect(visit.page.locator(f"#{slot} img")).to_be_visible(timeout=PATIENCE)
    visit.setting("steps", 2)
    [result] = visit.edit(tmp_path)
    outside = read_picture(ROOT / "examples/edits/dog.mask.png")[..., 0] < 128
    changed = (read_picture(result) != read_picture(PICTURE)).any(-1)
    assert not changed[outside].any()
    assert changed[~outside].mean() > 0.9
    visit.page.locator("#browse input").click()
    visit.page.get_by_role("option", name="000000006818.jpg").click()
    before = visit.page.locator("#exemplar img").get_attribute("src")
    visit.page.click("#as-exemplar")
    expect(visit.page.locator("#exemplar img")).not_to_have_attribute("src", before or "", timeout=PATIENCE)
