"""A page in a real browser: what a visitor does, and everything that the page complained of or asked for."""

import base64
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Route, expect

PATIENCE = 120_000  # milliseconds; a busy machine takes its time
expect.set_options(timeout=PATIENCE)


@dataclass
class Visit:
    """A page that was opened."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))

    def _heard(self, message: ConsoleMessage) -> None:
        # A refusal by our own server is a sentence on the page, and a line here that every browser writes.
        if message.type == "error" and "the server responded with a status of 4" not in message.text:
            self.errors.append(message.text)

    def open(self, address: str) -> None:
        self.page.goto(address)
        expect(self.page.locator("body[data-ready]")).to_be_attached(timeout=PATIENCE)

    def until(self, true: str) -> None:
        """Wait until an expression of the page is true; a page without `eval` cannot wait itself."""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(true):
            assert time.monotonic() < end, true
            self.page.wait_for_timeout(50)

    def give(self, path: Path | dict[str, Any], slot: str = "picture") -> None:
        """Choose a file for the picture, its mask or the exemplar."""
        inputs = {"picture": "#picture .drop input", "other": "#replace", "mask": "#mask input"}
        self.page.set_input_files(inputs.get(slot, "#exemplar .drop input"), path)

    def picture(self, path: Path | dict[str, Any], slot: str = "picture") -> None:
        """Choose a picture, and wait until it can be painted on."""
        with self.page.expect_response(lambda answer: "/page/look" in answer.url) as looked:
            self.give(path, slot)
        looked.value.finished()
        self.until("document.querySelector('#stage img').complete")
        expect(self.page.locator("#stage canvas")).to_be_visible()

    def exemplar(self, path: Path) -> None:
        self.give(path, "exemplar")
        expect(self.page.locator("#exemplar .crop img")).to_be_visible()

    def mask_file(self, path: Path | dict[str, Any]) -> None:
        before = self.marked().sum()
        self.give(path, "mask")
        self.until(f"{_COUNT} !== {before}")

    def setting(self, name: str, value: object) -> None:
        self.page.fill(f"[name={name}]", str(value))

    def stroke(self, *points: tuple[float, float]) -> None:
        """Paint through points, shares of the picture's width and height."""
        self.page.locator("#stage").scroll_into_view_if_needed()
        box = self.page.locator("#stage canvas").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places:
            self.page.mouse.move(*place, steps=6)
        self.page.mouse.up()

    def marked(self) -> np.ndarray:
        """The mask on the canvas, bool [h, w]; empty without a picture."""
        url = self.page.evaluate(
            """async () => {
              const canvas = document.querySelector("#stage canvas");
              return canvas.toDataURL("image/png");
            }"""
        )
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGBA"))[..., 3] >= 128

    def saved(self, button: str, path: Path) -> Path:
        with self.page.expect_download(timeout=PATIENCE) as download:
            self.page.click(button)
        download.value.save_as(path)
        return path

    def edit(self, folder: Path) -> list[Path]:
        """Press Edit; the new results in order."""
        before = self.page.locator("#gallery .thumb").count()
        self.page.click("#go")
        return self.results(folder, before)

    def results(self, folder: Path, before: int = 0) -> list[Path]:
        """Wait for an edit, and save its results; there were `before` of them."""
        self.until(f"document.querySelectorAll('#gallery .thumb').length > {before}")
        thumbs = self.page.locator("#gallery .thumb")
        paths = []
        for number in range(thumbs.count() - before):
            thumbs.nth(number).click()
            paths.append(self.saved("#download", folder / f"{before}-{number}.png"))
        thumbs.first.click()
        return paths

    def with_model(self, **fields: Any) -> list[dict[str, Any]]:
        """Let the page believe in another model; the orders that it then sends, which are not made."""
        orders: list[dict[str, Any]] = []

        def choices(route: Route) -> None:
            answer = route.fetch()
            route.fulfill(response=answer, json=answer.json() | fields)

        def order(route: Route) -> None:
            orders.append(route.request.post_data_json)
            route.fulfill(status=422, json={"error": "seen"})

        self.page.route("**/page/choices*", choices)
        self.page.route("**/api/*", order)
        return orders


_COUNT = """(() => {
  const canvas = document.querySelector("#stage canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 3; i < data.length; i += 4) count += data[i] >= 128;
  return count;
})()"""


def in_memory(pixels: np.ndarray, name: str = "made.png") -> dict[str, Any]:
    """Pixels as a file to choose."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}
