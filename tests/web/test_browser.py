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
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from intarsia.weights import save_model
from sampling.pictures import read_exemplar, read_mask, read_picture
from sampling.provenance import read_provenance
from sampling.web.choices import fields_of
from tests.paths import COCO_MINI, ROOT
from tests.sampling.tiny import tiny_model
from tests.text import text_model
from tests.web.visit import PATIENCE, Visit, in_memory

PICTURE = COCO_MINI / "images" / "000000017029.jpg"
OTHER = COCO_MINI / "images" / "000000006818.jpg"
EXEMPLAR = ROOT / "examples/edits/hydrant.exemplar.jpg"
MASK = ROOT / "examples/edits/dog.mask.png"
BAR = ((0.4, 0.5), (0.6, 0.5))

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own process, as a user starts it."""
    folder = tmp_path_factory.mktemp("web")
    save_model(tiny_model(2), folder / "model")
    save_model(text_model(2, "both", "model.structure.maps=[edges]"), folder / "models" / "both")
    options = ["--model", folder / "model", "--port", 0, "--device", "cpu", "--input", COCO_MINI / "images"]
    options += ["--model-dir", folder / "models"]
    command = [sys.executable, "-m", "sampling", "serve", *map(str, options)]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        ready = next((line for line in server.stderr if line.startswith("ready on ")), "")
        yield re.search(r"http://\S+", ready)[0]  # type: ignore[index]
        server.terminate()
        server.wait(30)
        assert "Traceback" not in server.stderr.read()
    assert not list(folder.glob("intarsia-serve-*")), "what visitors brought goes with the server"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium here; `make test-web` installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    visit = Visit(page)
    visit.open(address)
    yield visit
    page.close()
    assert visit.errors == []
    here = (address, "data:", "blob:" + address)
    assert [url for url in visit.asked if not url.startswith(here)] == []
    assert len(visit.asked) > 10, "requests are seen at all"


def test_a_painted_mask_changes_the_picture_inside_it_only(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    for name, value in {"num_inference_steps": 3, "seed": 11, "num_images": 2}.items():
        visit.setting(name, value)
    visit.stroke(*BAR, (0.6, 0.54), (0.4, 0.54))
    mask = read_mask(visit.saved("#save-mask", tmp_path / "mask.png"))
    results = visit.edit(tmp_path)
    if "WEB_SCREENSHOT" in os.environ:
        visit.page.wait_for_timeout(1000)
        visit.page.screenshot(path=os.environ["WEB_SCREENSHOT"], full_page=True)
    picture = read_picture(PICTURE)
    height, width = picture.shape[:2]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    # The bar of the mouse, wider by the brush, and nothing else; it lies where it was painted.
    assert 0.2 < (columns[-1] - columns[0]) / width < 0.35
    assert 0.04 < (rows[-1] - rows[0]) / height < 0.2
    assert abs((columns[0] + columns[-1]) / 2 / width - 0.5) < 0.02
    assert abs((rows[0] + rows[-1]) / 2 / height - 0.52) < 0.02
    changed = [(read_picture(path) != picture).any(-1) for path in results]
    assert len(changed) == 2
    for one in changed:
        assert not one[~mask].any()
        assert one[mask].mean() > 0.8
    assert (read_picture(results[0]) != read_picture(results[1])).any(), "two seeds"
    told = [read_provenance(path) for path in results]
    assert [one.seed for one in told] == [11, 12]
    assert told[0].settings["num_inference_steps"] == 3
    assert (read_mask(told[0].mask.path) == mask).all(), "the mask that is saved is the mask that is used"
    expect(visit.page.locator("#caption")).to_contain_text("seed 11, painted in")
    cut = visit.page.locator("#cut")
    cut.fill("80")
    assert visit.page.evaluate("document.querySelector('#compare').style.getPropertyValue('--cut')") == "80%"


def test_a_mistake_is_a_sentence_beside_the_button(visit: Visit) -> None:
    error = visit.page.locator("#error")
    for give, sentence in (
        (lambda: None, "there is no picture yet; drop one into field 1"),
        (
            lambda: visit.picture(PICTURE),
            "there is no exemplar yet; drop a picture of the object into field 2",
        ),
        (lambda: visit.exemplar(EXEMPLAR), "nothing is marked yet; paint over what is to be repainted"),
    ):
        give()
        visit.page.click("#go")
        expect(error).to_contain_text(sentence)
    expect(error).to_be_in_viewport()
    visit.stroke(*BAR)
    expect(error).to_be_empty()
    visit.setting("num_inference_steps", "0")
    visit.page.click("#go")
    expect(error).to_contain_text("num_inference_steps=0")


def test_clearing_the_mask_keeps_the_picture_and_its_proportions(visit: Visit, tmp_path: Path) -> None:
    strip = np.random.default_rng(0).integers(0, 256, (160, 640, 3), dtype=np.uint8)
    visit.picture(in_memory(strip))
    visit.stroke(*BAR)
    assert visit.marked().any()
    visit.page.click("#clear")
    assert not visit.marked().any()
    expect(visit.page.locator("#stage img")).to_be_visible()
    visit.stroke((0.5, 0.1), (0.5, 0.9))
    mask = read_mask(visit.saved("#save-mask", tmp_path / "mask.png"))
    assert mask.shape == (160, 640)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert rows[-1] - rows[0] > 2 * (columns[-1] - columns[0]), "a tall stroke stays tall"
    assert abs(columns.mean() - 320) < 8


def test_a_picture_that_cannot_be_read_leaves_no_picture(visit: Visit) -> None:
    visit.picture(PICTURE)
    visit.stroke(*BAR)
    visit.give({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}, "other")
    expect(visit.page.locator("#picture-error")).to_contain_text(
        "the picture is not a picture that can be read"
    )
    expect(visit.page.locator("#stage")).to_be_hidden()
    visit.page.click("#go")
    expect(visit.page.locator("#error")).to_contain_text("there is no picture yet")
    visit.picture(OTHER)
    assert not visit.marked().any()
    expect(visit.page.locator("#picture-error")).to_be_empty()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(visit: Visit, address: str) -> None:
    visit.with_model(limits={"num_images": 8, "upload_mb": 1})
    visit.open(address)
    visit.asked.clear()
    visit.give({"name": "large.png", "mimeType": "image/png", "buffer": bytes(3 << 20)})
    expect(visit.page.locator("#picture-error")).to_contain_text(
        "needs 3 MB, and a request takes at most 1 MB"
    )
    assert not [url for url in visit.asked if "/page/look" in url]
    visit.open(address)


def test_a_mask_file_is_on_the_canvas_and_strokes_add_to_it(visit: Visit, tmp_path: Path) -> None:
    file = read_mask(MASK)
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.setting("num_inference_steps", 2)
    visit.mask_file(MASK)
    assert (visit.marked() == file).all()
    visit.stroke((0.1, 0.9), (0.2, 0.9))
    both = visit.marked()
    assert both[file].all()
    assert both[~file].any()
    [result] = visit.edit(tmp_path)
    assert (read_mask(read_provenance(result).mask.path) == both).all(), "what is seen is what is used"
    visit.page.click("#undo")
    [exact] = visit.edit(tmp_path)
    assert Path(read_provenance(exact).mask.path).read_bytes() == MASK.read_bytes()
    visit.picture(OTHER, "other")
    assert not visit.marked().any(), "a new picture begins without a mask"


def test_masks_of_segmenters_are_read_or_named(visit: Visit) -> None:
    visit.picture(PICTURE)
    height, width = read_picture(PICTURE).shape[:2]
    ones = np.zeros((height, width), np.uint8)
    ones[100:200, 150:250] = 1
    visit.mask_file(in_memory(ones))
    assert (visit.marked() == (ones == 1)).all()
    expect(visit.page.locator("#picture-notes")).to_contain_text(
        "its values are 0 and 1, and 1 is read as white"
    )
    visit.give(in_memory(np.where(ones, np.uint8(2), np.eye(height, width, dtype=np.uint8))), "mask")
    error = visit.page.locator("#picture-error")
    expect(error).to_contain_text("its values are 0, 1, 2, so it marks nothing")
    expect(error).not_to_contain_text("nvert")
    assert (visit.marked() == (ones == 1)).all(), "the mask that was there stays"


def test_keys_are_for_the_mask_and_not_for_a_setting(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.setting("num_inference_steps", 2)
    visit.setting("seed", 7)
    visit.stroke(*BAR)
    one = visit.marked()
    visit.stroke((0.2, 0.2), (0.3, 0.2))
    two = visit.marked()
    keys = visit.page.keyboard
    for key, wanted in (
        ("Control+z", one),
        ("Control+y", two),
        ("Control+z", one),
        ("Control+Shift+Z", two),
        ("Control+z", one),
        ("Control+z", np.zeros_like(one)),
        ("Control+z", np.zeros_like(one)),
        ("Control+y", one),
    ):
        keys.press(key)
        assert (visit.marked() == wanted).all(), key
    assert visit.page.input_value("[name=seed]") == "7"
    brush = int(visit.page.input_value("#brush"))
    keys.press("]")
    assert int(visit.page.input_value("#brush")) > brush
    keys.press("[")
    keys.press("[")
    assert int(visit.page.input_value("#brush")) < brush
    keys.press("x")
    visit.stroke(*BAR)
    assert visit.marked().sum() < 0.7 * one.sum(), "the eraser takes away"
    keys.press("Control+z")
    keys.press("Enter")
    [result] = visit.results(tmp_path)
    visit.page.locator("#stage").focus()
    with visit.page.expect_download(timeout=PATIENCE) as download:
        keys.press("Control+s")
    download.value.save_as(tmp_path / "saved.png")
    assert (tmp_path / "saved.png").read_bytes() == result.read_bytes()
    expect(visit.page.locator("#help")).to_contain_text("brush size")


def test_the_mask_grows_and_shrinks_by_a_round_brush_and_inverts(visit: Visit) -> None:
    visit.picture(PICTURE)
    height, width = read_picture(PICTURE).shape[:2]
    square = np.zeros((height, width), bool)
    square[100:200, 150:250] = True
    visit.mask_file(in_memory(square))
    y, x = np.mgrid[:height, :width]
    away = np.hypot(np.clip(y, 100, 199) - y, np.clip(x, 150, 249) - x)
    visit.page.click("#grow")
    assert (visit.marked() == (away <= 4)).all()
    visit.page.click("#shrink")
    assert (visit.marked() == square).all()
    visit.page.click("#shrink")
    assert visit.marked().sum() == 92 * 92
    visit.page.click("#invert")
    assert visit.marked().sum() == height * width - 92 * 92


def test_an_edit_becomes_the_picture_or_the_exemplar(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.setting("num_inference_steps", 2)
    visit.stroke((0.3, 0.3), (0.4, 0.3))
    [first] = visit.edit(tmp_path)
    with visit.page.expect_response(lambda answer: "/page/look" in answer.url):
        visit.page.click("#continue")
    visit.until("document.querySelector('#undo').disabled")
    assert not visit.marked().any()
    visit.stroke((0.6, 0.7), (0.7, 0.7))
    [second] = visit.edit(tmp_path)
    assert Path(read_provenance(second).image.path).read_bytes() == first.read_bytes()
    for result, before in ((first, PICTURE), (second, first)):
        outside = ~read_mask(read_provenance(result).mask.path)
        assert (read_picture(result) == read_picture(before))[outside].all()
    assert visit.page.locator("#gallery .thumb").count() == 2


def test_the_exemplar_is_cropped_on_the_page_and_whole_again(visit: Visit) -> None:
    visit.exemplar(EXEMPLAR)
    image = visit.page.locator("#exemplar .crop img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + box["height"] + 30, steps=4)
    visit.page.mouse.up()
    expect(visit.page.locator("#uncrop")).to_be_visible()
    height, width = read_exemplar(EXEMPLAR).shape[:2]
    shown = "['naturalWidth', 'naturalHeight'].map((side) => document.querySelector('.crop img')[side])"
    visit.until(f"{shown}[0] < {width}")
    assert np.abs(np.array(visit.page.evaluate(shown)) - (width / 2, height / 2)).max() <= 3
    visit.page.click("#uncrop")
    visit.until(f"{shown}[0] === {width}")


def test_guidance_scales_are_compared(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    visit.setting("num_inference_steps", 2)
    visit.page.click("summary >> text=More settings")
    visit.setting("sweep", "2, high")
    visit.page.click("#go")
    expect(visit.page.locator("#error")).to_contain_text('"2, high" is not a list of numbers')
    visit.setting("sweep", "2, 8")
    results = visit.edit(tmp_path)
    assert [read_provenance(path).settings["guidance_scale"] for path in results] == [2.0, 8.0]
    expect(visit.page.locator("#gallery .thumb").nth(1)).to_contain_text("seed 0, scale 8")
    label = "document.querySelector('#gallery .thumb:nth-child(2) span')"
    assert visit.page.evaluate(f"{label}.scrollWidth <= {label}.clientWidth"), "all of it is seen"


def test_stop_ends_an_edit(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    visit.setting("num_inference_steps", 500)
    visit.page.click("#go")
    expect(visit.page.locator("#status")).to_contain_text(re.compile(r"step \d+ of \d+"), timeout=PATIENCE)
    visit.page.click("#stop")
    expect(visit.page.locator("#status")).to_have_text("stopped")
    visit.setting("num_inference_steps", 2)
    assert len(visit.edit(tmp_path)) == 1, "the next edit has its turn"


def test_notes_stand_beside_the_result(visit: Visit, tmp_path: Path) -> None:
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    visit.setting("num_inference_steps", 2)
    visit.setting("guidance_scale", 1)
    visit.edit(tmp_path)
    notes = visit.page.locator("#notes")
    expect(notes).to_contain_text("the exemplar is followed weakly")
    expect(notes).to_be_in_viewport()


def test_settings_are_remembered_and_presets_set_them(visit: Visit, address: str) -> None:
    value = visit.page.input_value
    visit.setting("guidance_scale", 3.5)
    visit.page.click("[data-preset=quick]")
    assert (value("[name=scheduler]"), value("[name=num_inference_steps]")) == ("dpm++", "20")
    visit.open(address)
    assert value("[name=guidance_scale]") == "3.5"
    expect(visit.page.locator("[data-preset=quick]")).to_have_attribute("aria-pressed", "true")
    visit.page.click("#new-seed")
    assert value("[name=seed]") != "0"
    visit.page.click("summary >> text=More settings")
    visit.page.click("#reset")
    assert [value(f"[name={name}]") for name in ("guidance_scale", "scheduler", "seed")] == ["5", "plms", "0"]


def test_the_frame_shows_what_the_model_will_see(visit: Visit) -> None:
    visit.picture(in_memory(np.full((512, 1024, 3), 120, np.uint8)))
    frame = visit.page.locator("#stage .frame")
    expect(frame).to_be_hidden()
    visit.stroke((0.5, 0.5), (0.52, 0.5))
    expect(frame).to_be_visible()
    small = frame.bounding_box()
    visit.page.click("summary >> text=More settings")
    visit.page.select_option("[name=fit]", "resize")
    visit.until("document.querySelector('#stage .frame').style.width === '100%'")
    large, whole = frame.bounding_box(), visit.page.locator("#stage").bounding_box()
    assert small and large and whole
    assert small["width"] < 0.5 * large["width"]
    assert abs(large["width"] - whole["width"]) < 2
    visit.page.click("#clear")
    expect(frame).to_be_hidden()


def test_pictures_of_the_folder_are_small_copies_to_choose(visit: Visit) -> None:
    thumbs = visit.page.locator("#offered-list .thumb")
    assert thumbs.count() == len(list((COCO_MINI / "images").iterdir()))
    visit.page.fill("#filter", OTHER.stem)
    assert thumbs.locator("visible=true").count() == 1
    thumbs.locator("visible=true").click()
    visit.until("document.querySelector('#offered-list .thumb:not([hidden]) img').naturalWidth > 50")
    visit.page.click("#take-picture")
    expect(visit.page.locator("#stage img")).to_be_visible()
    visit.page.click("#take-exemplar")
    expect(visit.page.locator("#exemplar .crop img")).to_be_visible()


def test_an_example_fills_the_page(visit: Visit, tmp_path: Path) -> None:
    visit.page.locator("#examples-list .thumb").first.click()
    expect(visit.page.locator("#exemplar .crop img")).to_be_visible()
    visit.until("!document.querySelector('#undo').disabled")
    assert (visit.marked() == read_mask(MASK)).all()
    visit.setting("num_inference_steps", 2)
    [result] = visit.edit(tmp_path)
    changed = (read_picture(result) != read_picture(PICTURE)).any(-1)
    assert not changed[~read_mask(MASK)].any()
    assert changed[read_mask(MASK)].mean() > 0.9


def test_a_model_that_takes_prompts_and_maps_has_fields_for_them(visit: Visit, address: str) -> None:
    page = visit.page
    for field in ("#prompt-field", "#structure", "[name=text_guidance_scale]"):
        expect(page.locator(field)).to_be_hidden()
    orders = visit.with_model(parts=["exemplar", "text"], maps=["edges"])
    visit.open(address)
    visit.picture(PICTURE)
    visit.stroke(*BAR)
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("say what to paint: by an exemplar, a prompt or both")
    page.fill("#prompt", "a red dog")
    page.select_option("[data-map=edges]", "picture")
    visit.setting("text_guidance_scale", 9)
    page.click("#go")
    expect(page.locator("#error")).to_have_text("seen")
    assert (orders[0]["prompt"], orders[0]["structure"]) == ("a red dog", {"edges": "picture"})
    assert orders[0]["text_guidance_scale"] == 9
    assert "exemplar" not in orders[0]


def test_the_second_tab_starts_from_the_picture(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    page.click("text=Start from the picture")
    expect(page.locator("[name=num_images]")).to_be_hidden()
    visit.setting("'invert.num_inference_steps'", 3)
    page.select_option("[name='invert.method']", "ddim")
    page.check("[value=context]")
    page.check("[value=background]")
    results = visit.edit(tmp_path)
    assert len(results) == 2, "the edit, and the picture as it was found again"
    made = read_provenance(results[0]).settings
    assert (made["method"], made["num_inference_steps"]) == ("ddim", 3)
    assert set(made["coupling"]) == {"context", "background"}
    outside = ~read_mask(MASK)
    assert (read_picture(results[0]) == read_picture(PICTURE))[outside].all()
    expect(page.locator("#caption")).to_contain_text("reconstruction error")
    page.click("text=Paint anew")
    expect(page.locator("[name=num_images]")).to_be_visible()
    page.click("text=Start from the picture")
    page.click("summary >> text=More settings")
    page.click("#reset")
    assert page.locator("#couplings input:checked").count() == 0, "what is seen is what is used"


def test_fields_follow_the_model_that_is_chosen(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.select_option("#model", "cv2")
    for hidden in ("#exemplar", "#ways", "#presets", "#examples", "#structure"):
        expect(page.locator(hidden)).to_be_hidden()
    visit.picture(PICTURE)
    visit.mask_file(MASK)
    [wiped] = visit.edit(tmp_path)
    assert read_provenance(wiped).painter == "cv2"
    page.select_option("#model", "both")
    for shown in ("#exemplar", "#ways", "#presets", "#examples", "#prompt-field"):
        expect(page.locator(shown)).to_be_visible()
    page.fill("#prompt", "a red dog")
    page.select_option("[data-map=edges]", "exemplar")
    page.click("#go")
    said = "structure edges=exemplar needs an exemplar; give an exemplar"
    expect(page.locator("#error")).to_have_text(said)
    page.select_option("[data-map=edges]", "picture")
    visit.setting("num_inference_steps", 2)
    before = page.locator("#gallery .thumb").count()
    page.click("#go")
    [dog] = visit.results(tmp_path, before)
    made = read_provenance(dog)
    assert (made.prompt, list(made.structure)) == ("a red dog", ["edges"])
    page.click("text=Start from the picture")
    expect(page.locator("#structure")).to_be_hidden()  # an inversion leaves the maps blank
    assert "null-text" in page.locator("[name='invert.method'] option").all_text_contents()
    assert page.locator("#couplings input").count() > 3
    page.click("text=Paint anew")
    expect(page.locator("#structure")).to_be_visible()
    page.select_option("#model", "model")
    expect(page.locator("#structure")).to_be_hidden()
    assert "null-text" not in page.locator("[name='invert.method'] option").all_text_contents()


def test_what_is_done_meanwhile_does_not_harm_an_edit(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    visit.setting("num_inference_steps", 30)
    page.click("#go")
    expect(page.locator("#status")).to_contain_text("step ")
    page.click("text=Start from the picture")
    page.select_option("#model", "cv2")
    visit.give({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}, "other")
    expect(page.locator("#stage")).to_be_hidden()
    assert len(visit.results(tmp_path)) == 1
    expect(page.locator("#error")).to_be_empty()
    expect(page.locator("#caption")).to_contain_text("seed 0, painted in")
    assert page.get_attribute("#download", "download") == f"{PICTURE.stem}-seed-0.png"


def test_edits_before_the_one_that_is_stopped_stay(visit: Visit) -> None:
    page = visit.page
    visit.picture(PICTURE)
    visit.exemplar(EXEMPLAR)
    visit.mask_file(MASK)
    visit.setting("num_inference_steps", 150)
    page.click("summary >> text=More settings")
    visit.setting("sweep", "2, 8")
    page.click("#go")
    expect(page.locator("#status")).to_contain_text("edit 2 of 2: step ")
    page.click("#stop")
    expect(page.locator("#status")).to_have_text("stopped")
    assert page.locator("#gallery .thumb").count() == 1
    expect(page.locator("#caption")).to_contain_text("scale 2")


def test_the_frame_does_not_need_the_other_settings(visit: Visit) -> None:
    visit.setting("num_inference_steps", "")
    visit.picture(in_memory(np.full((512, 1024, 3), 120, np.uint8)))
    visit.stroke((0.5, 0.5), (0.52, 0.5))
    expect(visit.page.locator("#stage .frame")).to_be_visible()


def test_a_model_that_takes_prompts_says_what_the_picture_shows(visit: Visit, address: str) -> None:
    page, orders = visit.page, visit.with_model(parts=["text"])
    visit.open(address)
    expect(page.locator("#exemplar")).to_be_hidden()
    visit.picture(PICTURE)
    page.fill("#prompt", "a cat")
    page.click("text=Start from the picture")
    visit.setting("'invert.source'", "a dog")
    visit.setting("'invert.words'", "dog")
    page.click("#go")
    expect(page.locator("#error")).to_contain_text('"dog" is not a pair such as cat=dog')
    visit.setting("'invert.words'", "dog=cat")
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_have_text("seen")
    assert (orders[0]["source"], orders[0]["target"]) == ("a dog", "a cat")
    assert orders[0]["words"] == {"dog": "cat"}
    assert "mask" not in orders[0], "nothing is painted, so everything may change"


def test_a_painter_that_is_told_nothing_needs_a_mask_only(visit: Visit, address: str) -> None:
    orders = visit.with_model(parts=[], invert=None, idle=fields_of("cv2", None, ()).idle)
    visit.open(address)
    visit.picture(PICTURE)
    for hidden in ("#exemplar", "#ways", "#presets"):
        expect(visit.page.locator(hidden)).to_be_hidden()
    visit.page.locator("details summary", has_text="More settings").click()
    fields = visit.page.locator("#order [name]").all()
    shown = [field.get_attribute("name") for field in fields if field.is_visible()]
    assert shown == ["blend", "match_colour"]
    visit.stroke(*BAR)
    visit.page.click("#go")
    expect(visit.page.locator("#error")).to_have_text("seen")
    assert set(orders[0]) == {"image", "mask", "invert_mask", "blend", "match_colour", "structure"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390, 320])
def test_the_page_is_as_wide_as_the_window(browser: Browser, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    visit = Visit(page)
    visit.open(address)
    visit.picture(in_memory(np.full((160, 640, 3), 120, np.uint8)))
    visit.exemplar(EXEMPLAR)
    for summary in page.locator("details:not([open]) summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert abs(stage["width"] / stage["height"] - 4) < 0.1
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    paper, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
    assert (paper > 200 > 60 > text) if scheme == "light" else (paper < 60 < 200 < text)
    page.close()
    assert visit.errors == []
