"""The pages in the system's Chromium: keys, pictures, and what axe says of them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
import uvicorn
from dicom_volumes import eye as save_eye
from review_made import SHAPE, SPACING, write_volume

from fanogan.review import Database, Settings, Truth, User, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.review.standing import by_reader
from fanogan.serve import address_of, listening

ROWS_OF_TOOLS = """new Set([...document.querySelectorAll(".tools button, .tools summary")]
    .filter((each) => each.checkVisibility()).map((each) => {
        const box = each.getBoundingClientRect();
        return Math.round(box.top + box.height / 2);
    })).size"""
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: make test-system"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs pip install axe")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database]]:
    folder = tmp_path_factory.mktemp("pages")
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    results = write_volume(folder / "results", save_eye(folder / "eye.dcm", pixels, SPACING))
    database = Database(folder / "review.sqlite")
    import_results(database, results)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 12:20, 4:10] = 255
    (folder / "masks").mkdir()
    tifffile.imwrite(folder / "masks" / "eye.tif", mask, photometric="minisblack")
    settings = Settings(truth=Truth(folder / "masks"))
    sessions = Sessions(database, User("me", "admin"))
    taken = listening("127.0.0.1", 0)
    config = uvicorn.Config(application(database, sessions, settings), log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"{address_of(taken, '127.0.0.1')}/enter?key={sessions.link}", database
    server.should_exit = True
    thread.join()
    taken.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


def test_a_case_is_read_by_keys_alone(site: tuple[str, Database], browser: Any) -> None:
    link, database = site
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(link)
    page.keyboard.press("j")
    page.wait_for_selector("#stage[data-shown='3']")  # the B-scan with the highest score
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("#stage[data-shown='2']")
    page.keyboard.press("r")
    page.wait_for_selector("#normal[aria-pressed=true]")
    page.wait_for_selector("#now:has-text('nearest normal version')")
    page.keyboard.press("t")
    page.wait_for_selector("polygon.truth", state="attached")
    page.keyboard.press("r")
    page.wait_for_selector("#normal[aria-pressed=false]")
    for key in ("]", "a"):
        page.keyboard.press(key)
    page.wait_for_selector("#regions tr.accepted")
    page.keyboard.press("x")
    page.wait_for_selector("#regions tr.rejected")
    page.keyboard.press("u")
    page.wait_for_selector("#regions tr.accepted")
    page.keyboard.press("n")
    page.keyboard.type("seen with a, x and u")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.wait_for_selector("[data-judge=abnormal][aria-pressed=true]")
    page.keyboard.press("p")
    box = page.locator("#stage").bounding_box()
    for x, y in ((0.45, 0.4), (0.55, 0.4), (0.55, 0.6)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#regions tr >> nth=2")
    page.keyboard.press("b")
    page.locator("#fundus").scroll_into_view_if_needed()
    box = page.locator("#fundus").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_selector("#regions tr >> nth=3")
    page.wait_for_selector("#fundus .stroke.accepted", state="attached")
    standing = by_reader(database.decisions(1))["me"]
    assert (standing.judgement, standing.note) == ("abnormal", "seen with a, x and u")
    assert standing.accepted[0] == "1"
    assert [shape["frame"] for shape in standing.drawn.values()] == [1, None]
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    assert said == []  # nothing against the content-security policy either
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [834, 1280, 1920])
def test_axe_finds_nothing(
    site: tuple[str, Database], browser: Any, scheme: str, width: int
) -> None:
    link, _ = site
    # axe is put into the page as a script, which the page's own policy forbids.
    context = browser.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(link)
    base = link.rpartition("/enter")[0]
    for path in ("/", "/cases/1", "/cases/1/print", "/agreement", "/login"):
        page.goto(base + path)
        page.wait_for_load_state("networkidle")
        if path == "/cases/1":
            rows = page.evaluate(ROWS_OF_TOOLS)
            assert rows <= 2
            page.click("#view summary")
        found = axe.Axe().run(page).response["violations"]
        assert found == [], [(each["id"], each["nodes"][0]["html"]) for each in found]
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, path
    context.close()
