"""A benchmark bundle: what removal shows, as plain files, so that other projects can score themselves without us.

bundle/
  benchmark.json          what it is, and the SHA-256 of every other file
  units.parquet           unit, codeword
  images.parquet          unit, image: the training images
  samples.parquet         sample, seed, image: the factual samples; their condition, if they have one
  removals.parquet        sample, unit, distance, image: each sample without each unit
  spares.parquet          sample, codeword, distance: as many components removed, and no unit
  scores.parquet          method, sample, unit, score: of the methods that were evaluated
  reader.py               reads all of it with numpy and pyarrow, in about ten lines
  README.md               a card, also for the Hugging Face Hub

Images are raw uint8 pixels, height x width x channels as benchmark.json says.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.files import file_hash, read_json, write_atomic, write_json
from .._runtime.hub import fetch, publish, repository
from .._runtime.outputs import OutputKind, check_contents, output_folder
from ..errors import SettingsError, StoreError, command, option
from ..universes.reader import Universe
from .evaluation import EVALUATION
from .scores import long_table, read_scores

if TYPE_CHECKING:
    import polars as pl

BUNDLE = OutputKind(
    what="benchmark",
    marker="benchmark.json",
    recognises=lambda value: value["kind"] == "ablatable benchmark",
    files=(r"benchmark\.json|reader\.py|README\.md|(units|images|samples|removals|spares|scores)\.parquet",),
)
"""What a bundle's folder holds."""

READER = '''"""Read this benchmark: numpy and pyarrow are all it needs."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet


def read(folder):
    """Tables by name, each a dict of arrays; images are uint8 (rows, height, width, channels)."""
    folder = Path(folder)
    shape = json.loads((folder / "benchmark.json").read_text())["image_shape"]
    tables = {file.stem: parquet.read_table(file).to_pydict() for file in sorted(folder.glob("*.parquet"))}
    for table in tables.values():
        for name, values in table.items():
            flat = np.frombuffer(b"".join(values), np.uint8).reshape(-1, *shape) if name == "image" else values
            table[name] = np.asarray(flat)
    return tables
'''

CARD = """---
{header}
---

# {title}

Ground truth for training-data attribution: {samples} samples of a diffusion ensemble, and each of them again without
each of {units} training units, from the same noise. The units were removed exactly, by leaving out every component that
saw them, so no retraining and no estimate is involved.

```python
from reader import read

tables = read(".")
truth = tables["removals"]  # sample, unit, distance from the factual sample, image
```

Score your method like this: for each sample, give every unit a score, and compare the ranking with `distance`. A
distance alone also contains the loss of the components; `spares.parquet` has what that costs, for as many components
and no unit. `scores.parquet` holds the scores of other methods, if any. Distances are Euclidean in the paper's unit,
images enlarged to 256 x 256 x 3 with values from 0 to 1.

A method that needs the model needs the run that drew the samples: its manifest is `{run}`.

Z. Dai and D. K. Gifford, *Ablation Based Counterfactuals*, arXiv 2406.07908, 2024. Made with `ablatable`.
"""


def export_benchmark(
    universe: Universe | str | Path,
    out: str | Path,
    *,
    evaluation: str | Path | None = None,
    title: str = "Attribution benchmark",
    overwrite: bool = False,
) -> Path:
    """Write a benchmark bundle, see the module, into the folder `out`.

    Args:
        universe: a finished universe or its place.
        evaluation: the folder of an evaluation of this universe, whose scores are put in.
        title: of the card.
        overwrite: replace the bundle that is there.

    Raises:
        SettingsError: `out` holds anything else, or `evaluation` is none, or of another universe.
    """
    opened, folder = Universe.open(universe), Path(out)
    check_contents(folder, BUNDLE)
    tables = {**_tables(opened), "scores": _scores(opened, evaluation)}
    with output_folder(folder, BUNDLE, overwrite=overwrite):
        about = {
            "kind": "ablatable benchmark",
            "universe_sha256": opened.digest,
            "run_sha256": opened.settings.run_sha256,
            "image_shape": list(opened.factual.shape[1:]),
            "samples": len(opened.seeds),
            "units": len(opened.unit_ids),
        }
        write_json(folder / BUNDLE.marker, about)
        for name, table in tables.items():
            write_atomic(folder / f"{name}.parquet", _parquet(table))
        write_atomic(folder / "reader.py", READER.encode())
        write_atomic(folder / "README.md", _card(about, title).encode())
        names = [path.name for path in _own(folder) if path.name != BUNDLE.marker]
        write_json(
            folder / BUNDLE.marker, {**about, "files_sha256": {name: file_hash(folder / name) for name in names}}
        )
    return folder


def push_benchmark(
    bundle: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Publish a benchmark",
) -> str:
    """Publish a benchmark bundle as a data set on the Hub; its card is its README.md.

    Args:
        bundle: the folder that `export_benchmark` wrote.
        name: `user/name`; the repository is made if it is not there.
        private: make it a private repository.
        revision: the branch to commit to.
        token: None = the one that the Hub's own tools use.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        StoreError: a file is missing or damaged; or there is no connection, no token, or no permission.
        SettingsError: `name` is not of the form user/name, or there is no bundle.
    """
    name, folder = repository(name), Path(bundle)
    if not BUNDLE.is_at(folder):
        raise SettingsError(f"{folder} is no benchmark bundle; make one with {command('universe bundle')}")
    _check(folder)
    with tempfile.TemporaryDirectory(prefix="ablatable-push-") as place:
        for path in _own(folder):
            shutil.copyfile(path, Path(place) / path.name)
        return publish(
            Path(place), name, kind="dataset", private=private, message=message, revision=revision, token=token
        )


def fetch_benchmark(name: str, *, revision: str | None = None) -> Path:
    """The folder of a benchmark bundle from a data set on the Hub, in the user's cache, its hashes checked.

    Args:
        name: `user/name`.
        revision: a branch, tag or commit; None = the main branch.

    Raises:
        StoreError: no such repository or revision, no connection, the repository is no bundle, or a file is damaged.
    """
    folder = fetch(name, [BUNDLE.marker], kind="dataset", revision=revision)
    if not BUNDLE.is_at(folder):
        raise StoreError(f"'{name}' on the Hub is no benchmark bundle of ablatable: it has no {BUNDLE.marker} of one")
    fetch(name, ["*.parquet", "reader.py", "README.md", BUNDLE.marker], kind="dataset", revision=folder.name)
    _check(folder)
    return folder


def bundle_files(folder: str | Path) -> dict[str, int]:
    """The files of a bundle and their sizes in bytes: what `push_benchmark` would publish."""
    return {path.name: path.stat().st_size for path in _own(Path(folder))}


def _own(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if BUNDLE.owns(path.name))


def _check(folder: Path) -> None:
    """`StoreError` unless every file has the hash that benchmark.json names."""
    for name, digest in read_json(folder / BUNDLE.marker).get("files_sha256", {}).items():
        if not (folder / name).is_file() or file_hash(folder / name) != digest:
            raise StoreError(f"{folder / name} is missing or damaged: it does not have the hash in {BUNDLE.marker}")


def _tables(universe: Universe) -> dict[str, pl.DataFrame]:
    import polars as pl

    settings, samples = universe.settings, np.arange(len(universe.seeds))
    words = settings.words or [None] * settings.ablations  # an imported universe does not know them
    spares, training = list(settings.spares), universe.training
    of_units = [words[row] for row in settings.ablation]
    removed = np.moveaxis(universe.ablations(settings.ablation), 0, 1)  # read once; (samples, units, H, W, C)
    count = len(universe.unit_ids)
    asked = {} if settings.conditions is None else {"condition": list(map(str, settings.conditions))}
    return {
        "units": pl.DataFrame(
            {"unit": universe.unit_ids, "codeword": of_units}, schema_overrides={"codeword": pl.String}
        ),
        "images": pl.DataFrame(
            {"unit": [universe.unit_ids[row] for row in training.owner], "image": _bytes(training.images)}
        ),
        "samples": pl.DataFrame(
            {"sample": samples, "seed": universe.seeds, "image": _bytes(universe.factual), **asked}
        ),
        "removals": pl.DataFrame(
            {
                "sample": np.repeat(samples, count),
                "unit": pl.Series(universe.unit_ids, dtype=pl.String).gather(np.tile(np.arange(count), len(samples))),
                "distance": universe.distances().T.ravel(),
                "image": _bytes(removed.reshape(-1, *removed.shape[2:])),
            }
        ),
        "spares": pl.DataFrame(
            {
                "sample": np.repeat(samples, len(spares)),
                "codeword": [words[row] for row in spares] * len(samples),
                "distance": universe.spare_distances().T.ravel(),
            },
            schema_overrides={"codeword": pl.String, "distance": pl.Float32},
        ),
    }


def _scores(universe: Universe, evaluation: str | Path | None) -> pl.DataFrame:
    import polars as pl

    schema = pl.Schema({"method": pl.String, "sample": pl.Int64, "unit": pl.String, "score": pl.Float64})
    if evaluation is None:
        return pl.DataFrame(schema=schema)
    folder = Path(evaluation)
    if not EVALUATION.is_at(folder):
        raise SettingsError(f"{folder} is no evaluation; give the folder that {option('out')} of evaluate named")
    if some := read_json(folder / EVALUATION.marker).get("samples"):
        raise SettingsError(f"{folder} compared samples {some} alone; give an evaluation of all samples")
    parts = []
    for path in sorted((folder / "scores").glob("*.parquet")):
        scores = read_scores(path, samples=len(universe.seeds), units=universe.unit_ids).factual
        table = long_table(scores, universe.unit_ids)
        parts.append(table.select(pl.lit(path.stem).alias("method"), "sample", "unit", "score").cast(schema))
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def _bytes(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def _parquet(table: pl.DataFrame) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _card(about: Mapping[str, Any], title: str) -> str:
    from huggingface_hub import DatasetCardData

    plain = re.sub(r"[\r\n]+", " ", title)
    header = DatasetCardData(
        pretty_name=plain, tags=["training-data-attribution", "diffusion", "benchmark", "ablatable"]
    ).to_yaml()
    return CARD.format(
        header=header, title=plain, run=about["run_sha256"], **{k: about[k] for k in ("samples", "units")}
    )
