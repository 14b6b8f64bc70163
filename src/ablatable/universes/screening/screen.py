"""A screened universe: samples for which only the most promising counterfactuals were drawn.

It reads as a universe in which some counterfactuals are missing: `drawn` says which are there. Each sample is one
sealed object that is written when the sample is finished. More seeds can be added at any time, and an interrupted
screening loses only the samples that it was working on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..._runtime.files import canonical_json, json_hash, writing
from ..._runtime.provenance import compare_settings, environment
from ...data.units import Units
from ...data.words import packed, unpacked
from ...errors import SettingsError, StoreError, command, option
from ..landscapes import checked_sample, in_unit, place_of, ranked
from ..notebooks import InNotebooks
from ..settings import UniverseSettings, conditions_grown, conditions_told, told
from ..store import SCREEN, SCREENED, delete, open_store, paths, read, reading, seal, state_of, unseal
from .search import Found, first_drawn, most_drawn

if TYPE_CHECKING:
    import polars as pl

TRAINING = "training.safetensors"


class ScreenSettings(BaseModel):
    """All that decides a screened universe's bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "ablatable screened universe"
    format: int = 1
    universe: UniverseSettings  # the universe it stands for
    share: float  # at most this share of the units' ablations is drawn per sample
    top: int  # how many of the farthest units are looked for
    sure: float  # drawing stops when the chance of having found them reaches this

    def context(self) -> bytes:
        """What each object is sealed with: the settings that it depends on."""
        return canonical_json(self.model_dump(mode="json", exclude={"universe": {"seeds", "block", "conditions"}}))

    def told(self) -> dict[str, Any]:
        """The settings that a user gave; the others follow from these."""
        derived = {"seeds", "block", "batch", "words", "ablation", "digests", "hardware", "conditions"}
        values = self.model_dump(mode="json", exclude={"universe"})
        return {**values, "universe": {**told(self.universe, derived), "spares": len(self.universe.spares)}}

    def with_samples(self, of: UniverseSettings) -> ScreenSettings:
        """The same for another universe's samples as well."""
        new = [seed for seed in of.seeds if seed not in self.universe.seeds]
        more = {"seeds": (*self.universe.seeds, *new), "conditions": conditions_grown(self.universe, of)}
        return self.model_copy(update={"universe": self.universe.model_copy(update=more)})


class Screen(InNotebooks):
    """A screened universe; open one with `Screen.open`.

    Attributes:
        url: where it is.
        made_with: all its settings; `settings` are those of the universe it stands for.
        units: unit ids.
        seeds: the samples' seeds.
    """

    def __init__(self, url: str | Path, *, partial: bool = False) -> None:
        """Open a screened universe; unless `partial`, it must be finished.

        Raises:
            StoreError: there is none, it is unfinished, or it is damaged.
        """
        url = str(place_of(url, "a screened universe"))
        store = open_store(url, create=False)
        with reading(url):
            self._opened(url, _read_settings(url, store), store)
            missing = [] if partial else [seed for seed in self.seeds if not self.has(seed)]
        if missing:
            raise StoreError(
                f"{self.url} is unfinished: {len(missing)} of {len(self.seeds)} samples are missing or damaged; "
                "give the command that makes it again, and it computes what is missing"
            )

    @classmethod
    def open(cls, url: str | Path | Screen, *, partial: bool = False) -> Screen:
        """Open a screened universe. One that is open already is given back as it is."""
        return url if isinstance(url, cls) else cls(place_of(url), partial=partial)

    def _opened(self, url: str, made_with: ScreenSettings, store: Any) -> None:
        self.url, self.made_with, self.store = url, made_with, store
        self.settings = made_with.universe
        self.unit_ids, self.seeds = self.settings.units, self.settings.seeds
        self._context = made_with.context()
        self._candidates = np.unique(self.settings.ablation)

    @classmethod
    def begin(cls, url: str | Path, wanted: ScreenSettings, training: Units, *, overwrite: bool = False) -> Screen:
        """Resume the screen of these settings that is there, with more seeds if they are wanted, or begin one.

        Raises:
            SettingsError: what is there was made with other settings (both values are named), or is something else.
        """
        state, store = state_of(url), open_store(url)
        if state not in ("nothing", "screen"):
            raise SettingsError(f"{url} holds something else; choose another {option('out')}, or delete it yourself")
        if state == "screen" and overwrite:
            delete(store, SCREEN)
            store.delete([path for path in paths(store) if path != SCREEN and SCREENED.owns(path)])
        elif state == "screen":
            there = cls.open(url, partial=True).made_with
            both = set(there.universe.seeds) & set(wanted.universe.seeds)
            then, now = ({**each.told(), **conditions_told(each.universe, both)} for each in (there, wanted))
            compare_settings(then, now, url)
            wanted = there.with_samples(wanted.universe)
        values = {"ablatable": wanted.model_dump(mode="json"), "environment": environment(*wanted.universe.versions)}
        screen = cls.__new__(cls)
        screen._opened(str(url), wanted, store)
        with writing(url):
            said = packed(**training.said)
            words = {} if said is None else {"words": np.frombuffer(said, np.uint8)}
            screen._put(TRAINING, {"images": training.images, "owner": training.owner, **words})
            store.put(SCREEN, canonical_json({**values, "sha256": json_hash(values)}))
        return screen

    # --- samples ------------------------------------------------------------------------------------------------

    def write(self, seed: int, found: Found) -> None:
        """Store a sample. It replaces what is there in one step."""
        with writing(self.url):
            self._put(_key(seed), asdict(found))

    def has(self, seed: int) -> bool:
        """Whether a sample is there and intact."""
        try:
            self._found(seed)
        except StoreError:
            return False
        return True

    def sample(self, number: int) -> Found:
        """A sample, from 0: `DataError` if there is no such sample, `StoreError` if it is missing or damaged."""
        return self._found(self.seeds[checked_sample(number, self.seeds)])

    def _found(self, seed: int) -> Found:
        """A seed's sample; `StoreError` if its object is damaged, or is another seed's."""
        arrays, key = self._get(_key(seed)), _key(seed)
        if set(arrays) != {field.name for field in fields(Found)}:
            raise StoreError(f"{self.url}: {key} holds no sample; give the command that makes it again")
        found, settings = Found(**arrays), self.settings
        spares, components = np.array(settings.spares, int), settings.codewords.shape[1]
        most = most_drawn(self.made_with.share, len(self._candidates), len(spares), components)
        first = first_drawn(seed, self._candidates, spares, most=most, components=components)
        if not np.array_equal(found.rows[: len(first)], first):
            raise StoreError(f"{self.url}: {key} is the sample of another seed; give the command that makes it again")
        return found

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
                "give the command that makes it again, and it computes what is missing"
            ) from error

    # --- reading, as from a universe ----------------------------------------------------------------------------

    @property
    def factual(self) -> np.ndarray:
        """Factual samples, uint8 (samples, H, W, C)."""
        return np.moveaxis(np.stack([sample.factual for sample in self._samples()]), -3, -1)

    def landscape(self, sample: int) -> np.ma.MaskedArray:
        """One sample under every ablation, uint8 (ablations, H, W, C), masked where it was not drawn."""
        found = self.sample(sample)
        images = np.zeros((self.settings.ablations, *found.factual.shape), np.uint8)
        images[found.rows] = found.pictures
        mask = np.broadcast_to(~found.drawn[:, None, None, None], images.shape)
        return np.ma.masked_array(np.moveaxis(images, -3, -1), np.moveaxis(mask, -3, -1))

    def counterfactuals(self, sample: int, rows: np.ndarray) -> np.ndarray:
        """One sample under some ablations, uint8 (rows, H, W, C); black where it was not drawn."""
        found, rows = self.sample(sample), np.asarray(rows, np.int64)
        place = np.full(self.settings.ablations, -1)
        place[found.rows] = np.arange(len(found.rows))
        images = found.pictures[place[rows]]
        images[place[rows] < 0] = 0
        return np.moveaxis(images, -3, -1)

    @property
    def training(self) -> Units:
        """The training data, as stored with the screen."""
        stored = self._get(TRAINING)
        said = stored["words"].tobytes() if "words" in stored else None
        return Units(self.unit_ids, stored["images"], stored["owner"], **unpacked(said))

    def drawn(self, *, samples: slice = slice(None)) -> np.ndarray:
        """Whether the counterfactual of each unit was drawn: bool (units, samples)."""
        return np.stack([found.drawn[list(self.settings.ablation)] for found in self._samples(samples)], axis=1)

    def sample_parts(self) -> list[slice]:
        """Slices that cover the samples, each of those that are stored together: each alone."""
        return [slice(number, number + 1) for number in range(len(self.seeds))]

    def distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distance of each unit's counterfactual, NaN where it was not drawn: float32 (units, samples)."""
        guesses = self.estimates(scaled=scaled, samples=samples)
        return np.where(self.drawn(samples=samples), guesses, np.float32(np.nan))

    def estimates(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distances that are exact where the counterfactual was drawn, and guesses elsewhere: as `distances`."""
        return self._distances(scaled, samples)[list(self.settings.ablation)]

    def spare_distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distances under the spares' ablations, which are all drawn: float32 (spares, samples)."""
        return self._distances(scaled, samples)[list(self.settings.spares)]

    def _distances(self, scaled: bool, samples: slice) -> np.ndarray:
        return np.stack([in_unit(found.distances, self.settings, scaled) for found in self._samples(samples)], 1)

    def radius(self, *, scaled: bool = True) -> np.ndarray:
        """The largest distance drawn per sample, float32 (samples,): the radius, with the probability `chance`."""
        return np.fmax.reduce(self.distances(scaled=scaled), axis=0)

    def chance(self, *, top: int = 1) -> np.ndarray:
        """The chance that a sample's `top` farthest units are among those drawn: float64 (samples,)."""
        return np.array([found.chance(self._candidates, top) for found in self._samples()])

    def influence(self, sample: int, *, scaled: bool = True) -> pl.DataFrame:
        """Units by how far their removal moves one sample, the farthest first.

        Columns: rank (from 1), unit, distance (float32), drawn (whether the distance is exact, and not a guess).
        """
        found, rows = self.sample(sample), list(self.settings.ablation)
        distances = in_unit(found.distances, self.settings, scaled)
        return ranked(self.unit_ids, distances[rows], drawn=found.drawn[rows])

    def passes(self) -> tuple[int, int]:
        """Forward passes (rows times survivors times passes of each) that were made, and that a universe would take."""
        words, each = self.settings.codewords, self.settings.sampling.passes
        survivors, factual = (~words).sum(1), words.shape[1] * len(self.seeds)
        made = factual + sum(int(survivors[found.rows].sum()) for found in self._samples())
        return made * each, (factual + int(survivors.sum()) * len(self.seeds)) * each

    def _samples(self, samples: slice = slice(None)) -> list[Found]:
        return [self.sample(number) for number in range(len(self.seeds))[samples]]


def _key(seed: int) -> str:
    return f"samples/{seed}.safetensors"


def _read_settings(url: str, store: Any) -> ScreenSettings:
    try:
        values = json.loads(read(store, SCREEN))
        digest = values.pop("sha256")
        settings = ScreenSettings.model_validate(values["ablatable"])
    except Exception as error:  # JSON, pydantic and object stores have many kinds
        raise StoreError(
            f"there is no readable screened universe at {url} ({type(error).__name__}); "
            f"make one with {command('universe screen', 'RUN', option('out', url))}"
        ) from error
    if json_hash(values) != digest:
        raise StoreError(f"{url}: {SCREEN} is damaged (its hash does not match); restore it, or make the screen again")
    return settings
