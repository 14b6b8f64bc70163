"""Make the bundled OpenMoji pictures, byte for byte, from the npm package.

    npm pack openmoji@17.0.0
    python scripts/make_openmoji.py openmoji-17.0.0.tgz            # writes src/ablatable/data/assets/openmoji.*
    python scripts/make_openmoji.py openmoji-17.0.0.tgz --check    # compares with what is there

Needs resvg_py and Pillow in the versions of `constraints.txt`: other versions may render or compress differently.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import tarfile
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import resvg_py
from PIL import Image

PACKAGE_SHA256 = "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68"
ASSETS = Path(__file__).resolve().parents[1] / "src" / "ablatable" / "data" / "assets"
SIDE = 32
WITHOUT_GROUPS = {"component", "flags", "symbols"}
WITHOUT_SUBGROUPS = {
    "brand",
    "flags",
    "queer-symbols",
    "regional-indicator",
    "subdivision-flag",
    "symbol-other",
    "symbols",
}  # fmt: skip ; the queer symbols are flags
MISSPELT = {"Laudra Dworatschek": "Laura Dworatschek"}


def artist(entry: dict) -> str:
    """The designer's name: one spelling, composed accents, no spaces around it."""
    name = unicodedata.normalize("NFC", entry["openmoji_author"]).strip()
    return MISSPELT.get(name, name)


def wanted(entry: dict) -> bool:
    """Whether this is a drawing: no flag, brand or symbol, and no variant in another skin tone."""
    return not (entry["skintone"] or entry["group"] in WITHOUT_GROUPS or entry["subgroups"] in WITHOUT_SUBGROUPS)


def render(svg: str, side: int = SIDE) -> np.ndarray:
    """uint8 (side, side, 3), on white."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="#ffffff", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def without_copies(entries: list[dict], pictures: list[np.ndarray]) -> list[int]:
    """Which pictures to keep: none that two designers have, and one of those that one designer has twice."""
    places = defaultdict(list)
    for place, picture in enumerate(pictures):
        places[picture.tobytes()].append(place)
    return sorted(same[0] for same in places.values() if len({artist(entries[place]) for place in same}) == 1)


def sheet_of(pictures: list[np.ndarray]) -> bytes:
    """All pictures, row by row in a nearly square sheet (the rest of it white), as lossless WebP."""
    columns = math.isqrt(len(pictures) - 1) + 1
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * columns, SIDE, SIDE, 3), 255, np.uint8)
    sheet[: len(pictures)] = pictures
    tiled = sheet.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, 3)
    buffer = io.BytesIO()
    Image.fromarray(tiled).save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def table_of(entries: list[dict]) -> bytes:
    """One row per picture, in the sheet's order, as Parquet."""
    buffer = io.BytesIO()
    pl.DataFrame(
        {
            "id": [entry["hexcode"] for entry in entries],
            "artist": [artist(entry) for entry in entries],
            "group": [entry["group"] for entry in entries],
            "subgroup": [entry["subgroups"] for entry in entries],
            "annotation": [entry["annotation"] for entry in entries],
        }
    ).write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def drawings(package: Path, side: int = SIDE) -> tuple[list[dict], list[np.ndarray]]:
    """Rows of the package's table and the pictures, uint8 (side, side, 3), of all drawings, copies too."""
    content = package.read_bytes()
    if hashlib.sha256(content).hexdigest() != PACKAGE_SHA256:
        sys.exit(f"{package} is not openmoji-17.0.0.tgz of npm: its SHA-256 should be {PACKAGE_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:

        def text(name: str) -> str:
            file = archive.extractfile(f"package/{name}")
            assert file is not None
            return file.read().decode()

        entries = [entry for entry in json.loads(text("data/openmoji.json")) if wanted(entry)]
        return entries, [render(text(f"color/svg/{entry['hexcode']}.svg"), side) for entry in entries]


def make(package: Path) -> dict[str, bytes]:
    """The two files by their names."""
    entries, pictures = drawings(package)
    kept = without_copies(entries, pictures)
    print(f"{len(entries)} drawings, {len(entries) - len(kept)} of them copies that are left out: {len(kept)} kept")
    pictures, entries = [pictures[place] for place in kept], [entries[place] for place in kept]
    pixels = hashlib.sha256(np.stack(pictures).tobytes()).hexdigest()
    print(f"{len({artist(entry) for entry in entries})} designers; SHA-256 of the pixels: {pixels}")
    return {"openmoji.webp": sheet_of(pictures), "openmoji.parquet": table_of(entries)}


def main() -> None:
    """Write the files, or compare them with those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="openmoji-17.0.0.tgz, from npm pack openmoji@17.0.0")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the bundled files differ")
    asked = parser.parse_args()
    differ = []
    for name, content in make(asked.package).items():
        if asked.check:
            differ += [name] if (ASSETS / name).read_bytes() != content else []
        else:
            (ASSETS / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    if differ:
        sys.exit(f"{' and '.join(differ)} differ from what this makes")


if __name__ == "__main__":
    main()
