"""How long a visitor of an explorer waits: until the page is there, and until a removal is drawn.

    ablatable demo --out demo
    ablatable explore bundled --universe demo/universe.zarr --out demo/explorer
    python bench/explorer.py demo/explorer [--core 1] [--visits 5]

Chromium runs headless, the server in this process. With --core, both share that one core of the processor (Linux). A
visit is a new browser context with an empty cache. A removal is the click on the first unit of the wall, and ends when
the last step is shown. A later removal of the same visit is that of another unit. Prints medians and the largest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from ablatable.explorer.serving import file_server

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WIDTHS = {1280: 800, 390: 844}
PATIENCE = 120_000  # milliseconds
UNITS = "#wall button[title]"
DRAWN = """
() => {
  const step = document.querySelector("#step");
  return document.querySelector("#findings table") && step.value === step.max;
}
"""


def removal(page: Page, unit: int) -> float:
    """Seconds from the click on a unit until the last step without it is shown; the unit is put back afterwards."""
    button = page.locator(UNITS).locator("visible=true").nth(unit)
    began = time.perf_counter()
    button.click()
    page.wait_for_function(DRAWN, timeout=PATIENCE)
    seconds = time.perf_counter() - began
    button.click()
    page.wait_for_function("() => !document.querySelector('#findings table')", timeout=PATIENCE)
    return seconds


def visit(browser: Browser, address: str, width: int) -> dict[str, float]:
    """Open the page once and remove two units, one after the other."""
    context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, has_touch=width == 390)
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(UNITS, timeout=PATIENCE)
    wall = time.perf_counter() - began
    page.wait_for_selector("html[data-ready=yes]", timeout=PATIENCE)
    ready = time.perf_counter() - began
    page.wait_for_timeout(1500)  # the first sample's other pictures
    times = {"wall": wall, "first sample": ready, "removal": removal(page, 0), "next removal": removal(page, 1)}
    context.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--core", type=int, help="run server and browser on this core alone")
    parser.add_argument("--visits", type=int, default=5)
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})  # Chromium inherits it
    server = file_server(args.site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS
        )
        for width in WIDTHS:
            visits = [visit(browser, address, width) for _ in range(args.visits)]
            load = os.getloadavg()[0]
            for what in visits[0]:
                seconds = [times[what] for times in visits]
                print(f"{width} px, {what}: {statistics.median(seconds):.2f} s (largest {max(seconds):.2f})")
            print(f"{width} px: {args.visits} visits, load {load:.1f}", flush=True)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
