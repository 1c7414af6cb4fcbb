"""Take the pictures of docs/review.md in the system's Chromium, from made-up eyes.

Usage: python docs/site/review_pictures.py FOLDER

FOLDER is made by docs/site/review_phantoms.py where it isn't there yet.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from review_phantoms import make

OUT = Path(__file__).parents[1] / "pictures"


def shot(page: Any, name: str) -> None:
    """Write what a page shows, in few colours."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(200).save(OUT / f"review_{name}.png", optimize=True)


def drive(browser: Any, link: str) -> None:
    """Read the first case, and take pictures on the way."""
    base = link.rpartition("/enter")[0]
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.goto(link)
    page.keyboard.press("j")
    page.wait_for_selector("#stage[data-shown]")
    for key in ("]", "a", "]", "x", "]", "a", "[", "[", "2"):
        page.keyboard.press(key)
        page.wait_for_timeout(400)
    page.select_option("#visit", index=1)
    shot(page, "case")
    page.goto(base + "/")
    shot(page, "worklist")
    page.goto(base + "/cases/1/print")
    shot(page, "print")
    dark = browser.new_page(viewport={"width": 1920, "height": 1000}, color_scheme="dark")
    dark.goto(link)
    dark.goto(base + "/cases/2")
    dark.wait_for_selector("#stage[data-shown]")
    dark.keyboard.press("t")
    shot(dark, "dark")


def main() -> None:
    """Start a review, and end it."""
    folder = Path(sys.argv[1])
    results = folder / "results"
    if not results.exists():
        make(folder)
    with tempfile.TemporaryDirectory() as temporary:
        database = str(Path(temporary, "review.sqlite"))
        command = [sys.executable, "-m", "fanogan", "review", str(results), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--database", database, "--masks", str(folder / "masks")],
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        try:
            link = next(line[5:].strip() for line in process.stdout or () if line[:5] == "open ")
            with sync_playwright() as started:
                browser = started.chromium.launch(
                    executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
                )
                drive(browser, link)
                browser.close()
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
