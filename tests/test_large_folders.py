"""Folders whose pixels are not to be in memory all at once: what a process really holds while it loads them.

Measured is anonymous memory, which nothing but the process can give back. Pixels that are mapped from the cache's file
are the system's to drop; they count as memory of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE, UNITS = 256, 50
PICTURES = int(os.environ.get("PICTURES", "2000"))  # docs/scaling.md has figures for 50,000
PIXELS = PICTURES * SIDE * SIDE * 3

PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
import ablatable as ab
from ablatable.data import load_cache

folder, cache, large = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
load_cache.cache_folder = lambda: cache
load_cache.LARGE = large


def held():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


most = [0]


def watch():
    while True:
        most[0] = max(most[0], held())
        time.sleep(0.01)


ab.Units.digits(2)  # imports what every load needs
threading.Thread(target=watch, daemon=True).start()
before, told = held(), {}
for name in ("first", "again"):
    most[0] = 0
    began = time.monotonic()
    units = ab.Units.from_folder(folder, quiet=True)
    print_of = units.fingerprint()
    part = units.select(units.ids[:2])
    time.sleep(0.05)
    told[name] = {"bytes": most[0] - before, "seconds": time.monotonic() - began, "fingerprint": print_of}
    told["mapped"] = isinstance(units.images, np.memmap)
    del units, part
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, as far as a decoder is concerned: smooth, different, JPEG."""
    top = tmp_path_factory.mktemp("large") / "pictures"
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        place = top / f"unit{number % UNITS:02d}" / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(place, quality=80)
    return top


def load(folder: Path, cache: Path, large: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(cache), str(large)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_pixels_are_not_held_in_memory(folder: Path, tmp_path: Path):
    mapped = load(folder, tmp_path / "a", 1 << 20)
    print(mapped)
    assert mapped["mapped"]
    assert max(mapped[when]["bytes"] for when in ("first", "again")) < 0.2 * PIXELS, mapped
    if PIXELS > 2 << 30:
        return  # too much for the comparison
    held = load(folder, tmp_path / "b", 1 << 40)
    assert not held["mapped"]
    assert held["first"]["bytes"] > 0.9 * PIXELS  # the measure can tell
    for when in ("first", "again"):
        assert mapped[when]["fingerprint"] == held[when]["fingerprint"]
