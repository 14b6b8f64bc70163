"""Compare everything that is stored with its hash, and repair what follows from the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import AblatableError, Message, SettingsError, StoreError, command, option
from ..runs.run import Run, check_run
from .blocks import INDEX, blocks_of, finished, forget, index_of
from .description import damaged, read_description
from .description import repair_metadata as _repair
from .landscapes import place_of
from .reader import Universe
from .screening.screen import Screen
from .store import exists, is_remote, open_store, reading, state_of


def check(path: str | Path | Run | Universe | Screen, *, repair: bool = False) -> list[str]:
    """Compare every hash and checksum of a run or a universe, enumerated or screened, with what is stored.

    Args:
        path: its place, or the opened object.
        repair: first call `repair_metadata`.

    Returns:
        What is wrong, one sentence each; empty if it is intact.

    Raises:
        SettingsError: there is neither a run nor a universe.
    """
    if repair:
        repair_metadata(path)
    return {"run": check_run, "universe": check_universe, "screened universe": check_screen}[kind_of(path)](
        path.path if isinstance(path, Run) else place_of(path)
    )


def kind_of(path: str | Path | Run | Universe | Screen) -> str:
    """What is at a place: a `run`, a `universe`, or a `screened universe`; `SettingsError` if it is none of them."""
    if isinstance(path, Run):
        return "run"
    place = place_of(path, "a run or a universe")
    local = "://" not in str(place)
    folder = Path(place)
    if local and not folder.exists():
        raise SettingsError(f"there is nothing at {place}; give the folder of a run or of a universe")
    if local and any((folder / name).exists() for name in ("ensemble.json", "settings.json")):
        return "run"
    state = state_of(place)
    if state == "nothing" or (state == "other" and not _parts_of_a_universe(place)):
        raise SettingsError(f"{place} is neither a run (ensemble.json) nor a universe (zarr.json)")
    return "screened universe" if state == "screen" else "universe"


def repair_metadata(path: str | Path | Universe | Run | Screen) -> list[str]:
    """Write the metadata of a universe's arrays again, where it is damaged, from the universe's settings.

    In an object store, blocks that are damaged are marked as missing. Nothing else follows from the settings: damaged
    samples are computed again by the command that made the universe, and damaged components by the command that trained
    the run.

    Returns:
        The objects that were repaired; always empty for runs and screened universes, which hold no such metadata.
    """
    if kind_of(path) != "universe":
        return []
    place = str(place_of(path))
    with reading(place):
        store = open_store(place, create=False)
        repaired = _repair(place, store)
        if is_remote(place):  # elsewhere the command that draws compares by itself
            settings = read_description(place, store).settings
            for block in blocks_of(settings):
                if finished(store, settings, block) != block:
                    forget(store, block)
        return repaired


def check_universe(url: str | Path | Universe) -> list[str]:
    """Compare every object of a universe with its hash. Returns what is wrong, one sentence each; empty = intact."""
    url = str(place_of(url))
    try:
        with reading(url):
            store = open_store(url, create=False)
            described = read_description(url, store)
            wrong = [_changed(url, key) for key in damaged(store, described, metadata=False)]
            for block in blocks_of(described.settings):
                if finished(store, described.settings, block, verify=False) != block:
                    wrong.append(f"{url}: block {block.name} is missing or its marker is damaged")
                elif finished(store, described.settings, block) != block:
                    wrong.append(f"{url}: block {block.name} does not have the hash it was written with")
            if not wrong and exists(store, INDEX) and index_of(store, described.digest) is None:
                wrong.append(f"{url}: {INDEX} is damaged; the command that made the universe writes it again")
            return wrong or _contradictions(Universe(url))
    except StoreError as error:
        return [error.message]


def _changed(url: str, key: str) -> str:
    remedy = (
        f"; {command('audit check', url, option('repair', True))} writes it again" if key.endswith("zarr.json") else ""
    )
    return Message(f"{url}: {key} is missing or does not have the hash it was written with{remedy}")


def _contradictions(universe: Universe | Screen) -> list[str]:
    """What is wrong where every object has its hash: read it, and compare the training data with the settings."""
    try:
        if list(universe.training.digests) != list(universe.settings.digests):
            return [f"{universe.url}: the stored training images are not the units it was made from"]
        _ = universe.factual, universe.distances()
    except AblatableError as error:
        return [error.message]
    return []


def check_screen(url: str | Path | Screen) -> list[str]:
    """Read every object of a screened universe. Returns what is wrong, one sentence each; empty = intact."""
    try:
        with reading(place_of(url)):
            opened = Screen.open(place_of(url), partial=True)
            wrong = [
                f"{opened.url}: seed {seed} is missing or damaged" for seed in opened.seeds if not opened.has(seed)
            ]
            return wrong or _contradictions(opened)
    except StoreError as error:
        return [error.message]


def _parts_of_a_universe(place: Any) -> bool:
    """Whether something of a universe is there, although its root cannot be read."""
    from .store import paths

    return any(path.startswith(("done/", "counterfactual/")) for path in paths(open_store(place)))
