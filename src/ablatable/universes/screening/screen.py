"""A screened universe: samples whose landscapes were screened for the units that move them most, not enumerated.

It reads like a universe with holes. Each sample is one sealed object, written when the sample is finished, so more
seeds can be added at any time, and an interrupted screening loses the samples it was working on and no others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..._runtime.files import canonical_json, json_hash, writing
from ..._runtime.provenance import compare_settings, environment
from ...codes.code import Code
from ...data.distance import native_to_scaled, radius
from ...data.units import Units
from ...errors import DataError, SettingsError, StoreError
from ..store import SCREEN, SCREENED, delete, open_store, paths, read, seal, state_of, unseal
from ..universe import UniverseSettings
from .search import Found

if TYPE_CHECKING:
    import polars as pl

TRAINING = "training.safetensors"


class ScreenSettings(BaseModel):
    """All that decides a screened universe's bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "ablatable screened universe"
    format: int = 1
    universe: UniverseSettings  # the universe it stands for
    share: float  # of the units' ablations that may be drawn of each sample
    top: int  # farthest units that are looked for
    sure: float  # drawing stops when the chance of having them is as large

    def context(self) -> bytes:
        """What each object is sealed with: the settings that it depends on."""
        return canonical_json(self.model_dump(mode="json", exclude={"universe": {"seeds", "block"}}))

    def told(self) -> dict[str, Any]:
        """The settings that whoever asked for them knows; the others follow from these."""
        derived = {"seeds", "block", "batch", "words", "ablation", "digests"}
        values = self.model_dump(mode="json", exclude={"universe": derived})
        values["universe"]["spares"] = len(self.universe.spares)
        return values

    def with_seeds(self, seeds: Iterable[int]) -> ScreenSettings:
        """The same for more samples."""
        more = dict.fromkeys((*self.universe.seeds, *seeds))
        return self.model_copy(update={"universe": self.universe.model_copy(update={"seeds": tuple(more)})})


class Screen:
    """A screened universe; open one with `Screen.open`.

    Attributes:
        url: where it is.
        made_with: all its settings; `settings` are those of the universe it stands for.
        units: unit ids.
        seeds: the samples' seeds.
    """

    def __init__(self, url: str | Path, made_with: ScreenSettings, store: Any) -> None:
        """For `begin` and `open`."""
        self.url, self.made_with, self.store = str(url), made_with, store
        self.settings = made_with.universe
        self.units, self.seeds = self.settings.units, self.settings.seeds
        self._context = made_with.context()
        self._candidates = np.unique(self.settings.ablation)

    # --- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, url: str | Path, wanted: ScreenSettings, training: Units, *, overwrite: bool = False) -> Screen:
        """Go on with the screen of these settings that is there, with more seeds if they are asked for, or begin one.

        Raises:
            SettingsError: what is there was made with other settings (both values are named), or is something else.
        """
        state, store = state_of(url), open_store(url)
        if state not in ("nothing", "screen"):
            raise SettingsError(f"{url} holds something else, which is left alone; choose another --out")
        if state == "screen" and overwrite:
            delete(store, SCREEN)
            store.delete([path for path in paths(store) if path != SCREEN and SCREENED.owns(path)])
        elif state == "screen":
            there = cls.open(url, partial=True).made_with
            compare_settings(there.told(), wanted.told(), url)
            wanted = there.with_seeds(wanted.universe.seeds)
        values = {"ablatable": wanted.model_dump(mode="json"), "environment": environment()}
        with writing(url):
            screen = cls(url, wanted, store)
            screen._put(TRAINING, {"images": training.images, "owner": training.owner})
            store.put(SCREEN, canonical_json({**values, "sha256": json_hash(values)}))
        return screen

    @classmethod
    def open(cls, url: str | Path, *, partial: bool = False) -> Screen:
        """Open a screened universe; unless `partial`, it must be finished.

        Raises:
            StoreError: there is none, it is unfinished, or its description is damaged.
        """
        store = open_store(url, create=False)
        try:
            values = json.loads(read(store, SCREEN))
            digest = values.pop("sha256")
            settings = ScreenSettings.model_validate(values["ablatable"])
        except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
            raise StoreError(
                f"there is no readable screened universe at {url} ({type(error).__name__}); "
                f"make one with 'ablatable universe screen RUN --share 0.1 --out {url}'"
            ) from error
        if json_hash(values) != digest:
            raise StoreError(f"{url}: {SCREEN} is damaged (hash does not match); restore it or make it again")
        screen = cls(url, settings, store)
        if not partial and (missing := [seed for seed in screen.seeds if not screen.has(seed)]):
            raise StoreError(
                f"{url} is unfinished: {len(missing)} of {len(screen.seeds)} samples are missing or damaged; "
                "give the same 'ablatable universe screen' command again"
            )
        return screen

    # --- samples ------------------------------------------------------------------------------------------------

    def write(self, seed: int, found: Found) -> None:
        """Store a sample; what is there is replaced at once or not at all."""
        with writing(self.url):
            self._put(_key(seed), asdict(found))

    def has(self, seed: int) -> bool:
        """Whether a sample is there and intact."""
        try:
            self._get(_key(seed))
        except StoreError:
            return False
        return True

    def sample(self, number: int) -> Found:
        """A sample, from 0: `DataError` if there is no such, `StoreError` if it is missing or damaged."""
        if not 0 <= number < len(self.seeds):
            raise DataError(f"no sample {number}; there are samples 0 to {len(self.seeds) - 1}")
        return Found(**self._get(_key(self.seeds[number])))

    def _put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save

        self.store.put(key, seal(self._context, save({k: np.ascontiguousarray(v) for k, v in arrays.items()})))

    def _get(self, key: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load

        try:
            return load(unseal(self._context, read(self.store, key)))
        except Exception as error:  # object stores and safetensors have many kinds
            raise StoreError(
                f"{self.url}: {key} is missing or damaged ({type(error).__name__}); "
                "give the same 'ablatable universe screen' command again"
            ) from error

    # --- reading, as from a universe ----------------------------------------------------------------------------

    @property
    def factual(self) -> np.ndarray:
        """Factual samples, uint8 (samples, H, W, C)."""
        return np.moveaxis(np.stack([sample.factual for sample in self._samples()]), -3, -1)

    def landscape(self, sample: int) -> np.ndarray:
        """One sample's pictures, uint8 (ablations, H, W, C); the factual one stands for those that were not drawn."""
        found = self.sample(sample)
        pictures = np.repeat(found.factual[None], len(self.settings.words), axis=0)
        pictures[found.rows] = found.pictures
        return np.moveaxis(pictures, -3, -1)

    @property
    def training(self) -> Units:
        """The training data, as stored with the screen."""
        stored = self._get(TRAINING)
        return Units(self.units, stored["images"], stored["owner"])

    def drawn(self) -> np.ndarray:
        """Whether each unit's counterfactual was drawn: bool (units, samples)."""
        return np.stack([found.drawn[list(self.settings.ablation)] for found in self._samples()], axis=1)

    def distances(self, *, scaled: bool = True) -> np.ndarray:
        """Distances of the counterfactuals that were drawn, 0 for the others: float32 (units, samples)."""
        rows = list(self.settings.ablation)
        return np.stack([self._scaled(found.distances * found.drawn, scaled)[rows] for found in self._samples()], 1)

    def spare_distances(self, *, scaled: bool = True) -> np.ndarray:
        """Distances under the spares' ablations, all of which are drawn: float32 (spares, samples)."""
        rows = list(self.settings.spares)
        return np.stack([self._scaled(found.distances, scaled)[rows] for found in self._samples()], 1)

    def radius(self, *, scaled: bool = True) -> np.ndarray:
        """The largest distance drawn of every sample, float32 (samples,): the radius, with the probability `chance`."""
        return radius(self.distances(scaled=scaled))

    def chance(self, *, top: int = 1) -> np.ndarray:
        """Of every sample, the chance that its `top` farthest units are those found: float64 (samples,)."""
        return np.array([found.chance(self._candidates, top) for found in self._samples()])

    def influence(self, sample: int, *, scaled: bool = True) -> pl.DataFrame:
        """Units by how far their removal moves one sample, farthest first.

        Columns: rank (from 1), unit, distance (float32), drawn (whether the distance is exact, and not a guess).
        """
        import polars as pl

        found, rows = self.sample(sample), np.array(self.settings.ablation)
        distances = self._scaled(found.distances, scaled)[rows]
        order = np.argsort(-distances, kind="stable")
        return pl.DataFrame(
            {
                "rank": np.arange(1, len(order) + 1),
                "unit": [self.units[k] for k in order],
                "distance": distances[order],
                "drawn": found.drawn[rows][order],
            }
        )

    def passes(self) -> tuple[int, int]:
        """Forward passes (rows times survivors times steps) that were made, and that the whole universe takes."""
        survivors = (~Code.from_words(list(self.settings.words), allow_dummy=True).matrix).sum(1)
        factual = self.settings.components * len(self.seeds)
        made = factual + sum(int(survivors[found.rows].sum()) for found in self._samples())
        return made * self.settings.steps, (factual + int(survivors.sum()) * len(self.seeds)) * self.settings.steps

    def _samples(self) -> list[Found]:
        return [self.sample(number) for number in range(len(self.seeds))]

    def _scaled(self, distances: np.ndarray, scaled: bool) -> np.ndarray:
        return distances if scaled else distances / np.float32(native_to_scaled(self.settings.shape))


def _key(seed: int) -> str:
    return f"samples/{seed}.safetensors"


def check_screen(url: str | Path) -> list[str]:
    """Read every object of a screened universe. Returns what is wrong, one sentence each; empty = intact."""
    try:
        opened = Screen.open(url, partial=True)
    except StoreError as error:
        return [str(error)]
    wrong = [f"{url}: seed {seed} is missing or damaged" for seed in opened.seeds if not opened.has(seed)]
    try:
        if list(opened.training.digests) != list(opened.settings.digests):
            wrong.append(f"{url}: the stored training images are not the units it was made from")
    except (StoreError, DataError) as error:
        wrong.append(str(error))
    return wrong
