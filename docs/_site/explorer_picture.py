"""Make docs/images/explorer.gif, .png and explorer-phone.png: somebody clicks an artist away.

    python docs/_site/explorer_picture.py SITE UNIT SEED OUT

SITE is what `ablatable explore` wrote, UNIT and SEED what is clicked away and from which sample, OUT the folder for the
pictures. Needs chromium and Playwright.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ablatable.explorer.serving import file_server

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
STEPS = 50


def main(site: Path, unit: str, seed: int, out: Path) -> None:
    """Serve the site, click, and write the pictures."""
    server = file_server(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS
        )
        page = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light").new_page()
        page.goto(f"{address}#seed={seed}")
        animate(frames_of(page, unit), out / "explorer.gif")
        page.screenshot(path=out / "explorer.png")
        phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 2}
        page = browser.new_context(**phone).new_page()  # pyright: ignore[reportArgumentType]
        page.goto(f"{address}#seed={seed}&without={unit}")
        ready(page)
        page.wait_for_selector(".findings table", timeout=120000)
        page.wait_for_timeout(4000)
        page.screenshot(path=out / "explorer-phone.png")
        browser.close()
    server.shutdown()
    for name in ("explorer.png", "explorer-phone.png"):
        Image.open(out / name).convert("RGB").save(out / name, optimize=True)


def ready(page: Page) -> None:
    """Wait until the first sample is drawn."""
    page.wait_for_selector("html[data-ready=yes]", timeout=120000)
    page.wait_for_timeout(2500)


def frames_of(page: Page, unit: str) -> list[tuple[Image.Image, int]]:
    """The page before, the steps of the redrawing, and the end, each with its time in milliseconds."""
    ready(page)
    frames = []

    def shot(milliseconds: int) -> None:
        frames.append((Image.open(io.BytesIO(page.screenshot())).convert("RGB"), milliseconds))

    shot(1600)
    page.locator("#wall").get_by_title(unit, exact=True).first.click()
    page.mouse.move(5, 5)
    page.wait_for_selector(".findings table", timeout=120000)
    page.wait_for_timeout(4000)
    for step in [*range(0, STEPS - 10, 4), *range(STEPS - 10, STEPS, 2)]:
        page.locator("#step").fill(str(step))
        page.wait_for_timeout(60)
        shot(110)
    page.locator("#step").fill(str(STEPS))
    page.wait_for_timeout(200)
    shot(3500)
    return frames


def animate(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """A GIF of one palette, which the last frame gives."""
    small = [(frame.resize((960, 600), Image.Resampling.LANCZOS), time) for frame, time in frames]
    palette = small[-1][0].quantize(128, method=Image.Quantize.MAXCOVERAGE, kmeans=4)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in small]
    times = [time for _, time in small]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
