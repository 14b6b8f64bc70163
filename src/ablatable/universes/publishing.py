"""Universes as data sets on the Hugging Face Hub: publish one with its card, fetch one.

A published universe is its objects, one file each, with a card (README.md). So it is a universe wherever it is fetched
to, and its hashes can be checked there.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._runtime.files import json_hash, write_atomic
from .._runtime.hub import fetch, publish, repository
from ..errors import StoreError
from .opening import open_landscapes
from .reader import Universe
from .screening.screen import Screen
from .store import SCREENED, UNIVERSE, concurrently, open_store, paths, read, reading

if TYPE_CHECKING:
    from .landscapes import Landscapes

KINDS = (SCREENED, UNIVERSE)
CARD = """---
{header}
---

# {title}

A universe of the method *ablation based counterfactuals*: {samples} samples of a diffusion ensemble, and each of them
again without each of {units} training units, from the same noise. A unit is removed exactly, by leaving out every
component that saw it: no retraining and no estimate is involved.

```python
import ablatable as ab

universe = ab.fetch_universe("{name}")
universe.influence(sample=0)  # units by how far their removal moves this sample
```

| | |
| --- | --- |
| samples | {samples}, {height} x {width} pixels, {colour} |
| units | {units}, such as {named} |
| sampler | `{sampler}`, {steps} steps |
| distinct ablations | {ablations}, {spares} of them spares: as many components removed, and no unit |
| run that drew it | manifest `{run}` |
| description of the universe | SHA-256 `{digest}` |

It is a Zarr v3 group. `factual` has the samples, (samples, channels, height, width), `counterfactual` the samples under
every ablation, `distance/euclidean` their distances, and `training` the training images. Zarr's attributes say which
ablation removes which unit. **The training images are part of it.** {screened}

Distances are Euclidean in the paper's unit (images enlarged to 256 x 256 x 3 with values from 0 to 1). They contain
what the loss of the components costs, whoever is removed: spares show how much that is.

Z. Dai and D. K. Gifford, *Ablation Based Counterfactuals*, [arXiv 2406.07908](https://arxiv.org/abs/2406.07908), 2024.
Made with `ablatable`.
"""
SCREENED_TOO = (
    "It is a screened universe: of each sample only some counterfactuals were drawn, in `samples`, and the others' "
    "distances are estimates."
)


def push_universe(
    universe: str | Path | Landscapes,
    name: str,
    *,
    private: bool = False,
    license: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Publish a universe",
) -> str:
    """Publish a universe, or a screened one, as a data set on the Hub. The training images are part of it.

    Args:
        universe: a finished one, or its place.
        name: `user/name`; the repository is made if it is not there.
        private: make it a private repository.
        license: as the Hub writes it (`cc-by-4.0`).
        revision: the branch to commit to.
        token: None = the one that the Hub's own tools use.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        StoreError: it is unfinished or damaged; or there is no connection, no token, or no permission.
        SettingsError: `name` is not of the form user/name.
    """
    name, opened = repository(name), open_landscapes(universe)
    with tempfile.TemporaryDirectory(prefix="ablatable-push-") as place:
        folder = Path(place)
        with reading(opened.url):
            store = open_store(opened.url, create=False)
            concurrently(lambda key: _copy(store, key, folder), _objects(opened))
        write_atomic(folder / "README.md", _card(opened, name, license).encode())
        return publish(folder, name, kind="dataset", private=private, message=message, revision=revision, token=token)


def published_objects(universe: str | Path | Landscapes) -> dict[str, int | None]:
    """What `push_universe` would publish: files and their sizes in bytes, None for those that it makes."""
    opened = open_landscapes(universe)
    with reading(opened.url):
        store, keys = open_store(opened.url, create=False), _objects(opened)
        sizes = concurrently(lambda key: int(store.head(key)["size"]), keys)
    return {"README.md": None, **dict(zip(keys, sizes, strict=True))}


def fetch_universe(name: str, *, revision: str | None = None) -> Landscapes:
    """A universe, or a screened one, from a data set on the Hub; its files are kept in the user's cache.

    Args:
        name: `user/name`.
        revision: a branch, tag or commit; None = the main branch.

    Raises:
        StoreError: no such repository or revision, no connection, or the repository is no universe.
    """
    folder = fetch(name, [kind.marker for kind in KINDS], kind="dataset", revision=revision)
    if not any(kind.is_at(folder) for kind in KINDS):
        raise StoreError(
            f"'{name}' on the Hub is no universe of ablatable: it has no {UNIVERSE.marker} or {SCREENED.marker} of one"
        )
    # the commit, so that all objects belong together whatever is published meanwhile
    fetch(name, ["*"], kind="dataset", revision=folder.name)
    return open_landscapes(folder)


def _objects(opened: Landscapes) -> list[str]:
    """The keys of all that belongs to a universe, sorted."""
    kind = SCREENED if isinstance(opened, Screen) else UNIVERSE
    return sorted(key for key in paths(open_store(opened.url, create=False)) if kind.owns(key))


def _copy(store: Any, key: str, folder: Path) -> None:
    place = folder / key
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(read(store, key))


def _card(opened: Landscapes, name: str, license: str | None) -> str:
    from huggingface_hub import DatasetCardData

    title, settings = name.rsplit("/", maxsplit=1)[-1], opened.settings
    tags = ["training-data-attribution", "diffusion", "counterfactuals", "ablatable"]
    header = DatasetCardData(license=license, pretty_name=title, tags=tags).to_yaml()
    channels, height, width = settings.shape
    shown = [re.sub(r"[`|\s]+", " ", unit) for unit in opened.unit_ids[:3]]
    return CARD.format(
        header=header,
        title=title,
        name=name,
        samples=len(opened.seeds),
        units=len(opened.unit_ids),
        named=", ".join(f"`{unit}`" for unit in shown),
        height=height,
        width=width,
        colour="grey" if channels == 1 else "colour",
        sampler=settings.sampler or "not on record",
        steps=settings.steps or "unknown",
        ablations=settings.ablations,
        spares=len(settings.spares),
        run=settings.run_sha256 or "not on record",
        digest=opened.digest if isinstance(opened, Universe) else json_hash(opened.settings.model_dump(mode="json")),
        screened=SCREENED_TOO if isinstance(opened, Screen) else "",
    ).replace(" \n", "\n")
