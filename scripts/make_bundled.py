"""Train the bundled ensemble: twelve artists' drawings in colour, small enough to travel with the package.

    python scripts/make_bundled.py [OUT]

OUT is `src/ablatable/data/assets/bundled` if not given. The result is a run like any other, with its manifest; it is
the same bytes on the same kind of machine with the same versions. An interrupted call resumes. About ten minutes of one
core; training uses one process, so that it disturbs nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ablatable as ab
from ablatable.runs.bundled import train_bundled

DEFAULT = Path(__file__).parents[1] / "src" / "ablatable" / "data" / "assets" / "bundled"


def main(out: Path) -> None:
    """Train, then leave out what only the machine that trained has a use for."""
    run = train_bundled(out, execution=ab.Execution(workers=1, device="cpu"))
    for name in ("log.jsonl", ".lock", ".lock.json"):
        (run.path / name).unlink(missing_ok=True)
    for folder in run.path.glob("first_look*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    print(f"{run.path}: {size / 1e6:.1f} MB, manifest {run.digest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
