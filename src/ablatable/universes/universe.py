"""A universe on disk: factual samples and the counterfactual of every ablation, in a checksummed Zarr v3 group.

Its arrays are written a block at a time (`block` = ablations x samples), one writer a block. A block that is finished
has a marker beside the arrays, with its extent and the hash of every object it wrote: what has no marker, or does not
match it, is computed again and never served.

A universe grows at its ends: new seeds and new units' ablations come after what is there, which stays where it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import ObjectStore

from .._runtime.files import json_hash, writing
from .._runtime.provenance import compare_settings, environment
from .._runtime.workers import chunks
from ..data.distance import native_to_scaled, radius
from ..data.units import Units
from ..diffusion.sampling_settings import Sampling
from ..errors import DataError, SettingsError, StoreError
from .store import NothingAssumed, clear, delete, object_hash, open_store, paths, read, state_of

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
CHUNK_BYTES = 64 * 1024  # what reading one picture reads at least


class UniverseSettings(BaseModel):
    """All that decides a universe's bytes; stored in the group's attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    kind: str = "ablatable universe"
    run_sha256: str | None  # the run's manifest; None if imported
    shape: tuple[int, int, int]
    components: int  # 0 if imported
    sampler: str
    steps: int
    precision: str = "fp32"  # of the components' forward passes
    threshold: int | None = None  # pictures are delivered in pure black and white: levels from here up are white
    compiled: bool = False  # kernels that torch.compile fused round differently
    batch: int  # rows a component sees at once
    block: tuple[int, int]  # ablations, samples
    seeds: tuple[int, ...]
    units: tuple[str, ...]
    digests: tuple[str, ...]
    words: tuple[str, ...]  # the ablations: distinct codewords; empty texts if imported, as nobody recorded them
    ablation: tuple[int, ...]  # each unit's row of `words`
    spares: tuple[int, ...] = ()  # rows of `words` that are no unit's

    @property
    def sampling(self) -> Sampling:
        """How its samples were drawn."""
        return Sampling(self.sampler, self.steps, self.precision, self.compiled, self.threshold)

    @property
    def imported(self) -> bool:
        """Whether it came from a file (see `ctf`): then it has no run, no codewords and no noise on record."""
        return self.components == 0


def extension(old: UniverseSettings, wanted: UniverseSettings, place: str | Path) -> UniverseSettings:
    """What a universe of `old` settings has to become to hold all that `wanted` asks for: `old` itself, or more.

    Seeds, units and spares may be added. Rows of any ablation and sample are the same bits in whichever universe they
    are drawn, so nothing that is there needs to be drawn again.

    Raises:
        SettingsError: `wanted` lacks something that is there, or differs in anything else; both values are named.
    """

    def told(settings: UniverseSettings, contained: dict[str, bool]) -> dict:
        derived = {"batch", "block", "words", "ablation", "digests"}
        named = {"seeds": list(settings.seeds), "units": list(settings.units), "spares": len(settings.spares)}
        rest = settings.model_dump(mode="json", exclude=derived | named.keys())
        return {**rest, **{name: "" if contained[name] else value for name, value in named.items()}}

    def spare_words(settings: UniverseSettings) -> set[str]:
        return {settings.words[row] for row in settings.spares}

    if old.imported or wanted.imported:
        compare_settings(old.model_dump(mode="json"), wanted.model_dump(mode="json"), place)
        return old
    seeds, units, words, spares = set(old.seeds), set(old.units), set(old.words), spare_words(old)
    contained = {
        "seeds": seeds <= set(wanted.seeds),
        "units": units <= set(wanted.units),
        "spares": spares <= spare_words(wanted),
    }
    compare_settings(told(old, contained), told(wanted, contained), place)
    all_words = (*old.words, *(word for word in wanted.words if word not in words))
    row = {word: number for number, word in enumerate(all_words)}
    fresh = [k for k, unit in enumerate(wanted.units) if unit not in units]
    new_spares = [word for k in wanted.spares if (word := wanted.words[k]) not in spares]
    return old.model_copy(
        update={
            "seeds": (*old.seeds, *(seed for seed in wanted.seeds if seed not in seeds)),
            "units": (*old.units, *(wanted.units[k] for k in fresh)),
            "digests": (*old.digests, *(wanted.digests[k] for k in fresh)),
            "words": all_words,
            "ablation": (*old.ablation, *(row[wanted.words[wanted.ablation[k]]] for k in fresh)),
            "spares": (*old.spares, *(row[word] for word in new_spares)),
        }
    )


@dataclass(frozen=True)
class Block:
    """A piece of work of fixed place and size: some ablations of some samples, or (`ablations` None) the factual."""

    samples: tuple[int, int]
    ablations: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Its marker's name."""
        first = "factual" if self.ablations is None else f"{self.ablations[0]:07d}"
        return f"{first}.{self.samples[0]:07d}"

    @property
    def rows(self) -> int:
        """How many pictures it holds."""
        first, last = self.ablations or (0, 1)
        return (last - first) * (self.samples[1] - self.samples[0])

    def beyond(self, part: Block) -> list[Block]:
        """What this block holds and `part` does not, which starts where it does: the rest of its rows and columns."""
        rest = []
        if part.samples[1] < self.samples[1]:
            rest.append(Block((part.samples[1], self.samples[1]), part.ablations))
        if self.ablations and part.ablations and part.ablations[1] < self.ablations[1]:
            rest.append(Block(self.samples, (part.ablations[1], self.ablations[1])))
        return rest


class Universe:
    """A universe; open a finished one with `Universe.open`.

    Attributes:
        url: where it is.
        settings: what it was made from.
        units: unit ids.
        seeds: the samples' seeds.
    """

    def __init__(self, url: str | Path, settings: UniverseSettings, store: Any) -> None:
        """For `open` and `create`."""
        self.url, self.settings, self.store = str(url), settings, store
        self.group = zarr.open_group(ObjectStore(store), mode="r+")
        self.reading = zarr.open_group(NothingAssumed(store, read_only=True), mode="r")
        self.units, self.seeds = settings.units, settings.seeds
        self._row = {unit: row for row, unit in enumerate(settings.units)}

    # --- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, url: str | Path, settings: UniverseSettings, training: Units, environment: dict[str, str]
    ) -> Universe:
        """Lay out an empty universe, or make room in one for its `extension`. Settings are written last."""
        store = open_store(url)
        with writing(url):
            _lay_out(store, settings, training, environment)
        return cls(url, settings, store)

    @classmethod
    def begin(
        cls, url: str | Path, settings: UniverseSettings, training: Callable[[], Units], *, overwrite: bool = False
    ) -> Universe:
        """Go on with the universe of these settings that is there, extending it if need be, or lay out an empty one.

        Args:
            settings: what the universe is to hold.
            training: gives the training data, those units and perhaps others.
            overwrite: start anew over a universe that is there.

        Raises:
            SettingsError: what is there was made with other settings (both values are named), or is no universe.
        """
        match state_of(url):
            case "other" | "screen" as state:
                what = "a screened universe" if state == "screen" else "other files and no universe"
                raise SettingsError(
                    f"{url} holds {what}, which is left alone; choose another --out, or delete them yourself"
                )
            case "universe" if not overwrite:
                universe = cls.open(url, partial=True)
                settings = extension(universe.settings, settings, url)
                if settings == universe.settings and universe.fits():
                    return universe
            case "universe" | "begun":
                clear(url)
        return cls.create(url, settings, training().select(settings.units), environment())

    @classmethod
    def open(cls, url: str | Path, *, partial: bool = False) -> Universe:
        """Open a universe; unless `partial`, it must be finished.

        Raises:
            StoreError: there is none, it is unfinished, or its description is damaged.
        """
        store = open_store(url, create=False)
        try:
            attrs = dict(zarr.open_group(ObjectStore(store), mode="r").attrs)
            digest = attrs.pop("sha256")
            if json_hash(attrs) != digest:
                raise StoreError(
                    f"{url}: its description is damaged (hash does not match); restore it from a copy or make it again"
                )
            settings = UniverseSettings.model_validate(attrs["ablatable"])
        except (KeyError, TypeError, FileNotFoundError, ValidationError, ValueError) as error:
            if state_of(url) == "screen":
                raise StoreError(
                    f"{url} is a screened universe: 'ablatable universe radius' and 'influence' read it; for anything "
                    "else draw every unit's counterfactual: 'ablatable universe create' with another --out"
                ) from error
            raise StoreError(
                f"there is no readable universe at {url} ({type(error).__name__}); "
                f"make one with 'ablatable universe create RUN --out {url}'"
            ) from error
        universe = cls(url, settings, store)
        if not partial:
            if not universe.fits():
                raise StoreError(
                    f"{url} was being extended when that stopped; give that 'ablatable universe create' command again"
                )
            blocks = list(universe.blocks())
            missing = [block for block in blocks if not universe.has(block, verify=False)]
            if missing:
                raise StoreError(
                    f"{url} is unfinished: {len(blocks) - len(missing)} of {len(blocks)} blocks are there; "
                    "give the same 'ablatable universe create' command again"
                )
        return universe

    # --- blocks -------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """Every block, the factual ones first."""
        block_a, block_s = self.settings.block
        samples = list(chunks(len(self.seeds), block_s))
        yield from (Block(s) for s in samples)
        yield from (Block(s, a) for a in chunks(len(self.settings.words), block_a) for s in samples)

    def fits(self) -> bool:
        """Whether the arrays are as large as the settings say; they are not after an extension that was interrupted."""
        counts = (len(self.settings.words), len(self.seeds))
        arrays = {"factual": counts[1:], "counterfactual": counts, "distance/euclidean": counts}
        sizes = all(_array_of(self.reading, name).shape[: len(size)] == size for name, size in arrays.items())
        return sizes and int(self._get("training/owner", -1)) == len(self.units) - 1

    def write(self, block: Block, pictures: np.ndarray) -> None:
        """Store a block's pictures, uint8 (ablations, samples, C, H, W), and their distances; then its marker."""
        from ..data.distance import euclidean

        with writing(self.url):
            first, last = block.samples
            for key in self._keys(block):
                delete(self.store, key)  # what is there may be torn, and Zarr would try to read it first
            if block.ablations is None:
                self._set("factual", slice(first, last), pictures[0])
            else:
                rows = slice(*block.ablations)
                factual = self._get("factual", slice(first, last))
                self._set("counterfactual", (rows, slice(first, last)), pictures)
                self._set("distance/euclidean", (rows, slice(first, last)), euclidean(pictures, factual))
            hashes = {key: object_hash(self.store, key) for key in self._keys(block)}
            self.store.put(f"done/{block.name}.json", json.dumps({**asdict(block), "sha256": hashes}).encode())

    def has(self, block: Block, *, verify: bool = True) -> bool:
        """Whether a block is finished; with `verify`, whether its bytes are still those that were written."""
        return self._marked(block, verify) == block

    def part(self, block: Block) -> tuple[Block, np.ndarray] | None:
        """The part of a block that was finished before the universe grew, and its pictures as `write` takes them."""
        part = self._marked(block, verify=True)
        if part is None:
            return None
        samples = slice(*part.samples)
        if part.ablations is None:
            return part, self._get("factual", samples)[None]
        return part, self._get("counterfactual", (slice(*part.ablations), samples))

    def _marked(self, block: Block, verify: bool) -> Block | None:
        """The extent that a block's marker vouches for, if what it vouches for is there."""
        try:
            marker = json.loads(read(self.store, f"done/{block.name}.json"))
            hashes, ablations = marker["sha256"], marker["ablations"]
            part = Block(tuple(marker["samples"]), ablations and tuple(ablations))
            if part.name != block.name or set(hashes) != set(self._keys(block)):
                return None
            sound = (self.store.head(k) if not verify else object_hash(self.store, k) == h for k, h in hashes.items())
            return part if all(sound) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _keys(self, block: Block) -> list[str]:
        """The objects a block consists of."""
        block_a, block_s = self.settings.block
        s, zeros = block.samples[0] // block_s, "/".join("0" * len(self.settings.shape))
        if block.ablations is None:
            return [f"factual/c/{s}/{zeros}"]
        a = block.ablations[0] // block_a
        return [f"counterfactual/c/{a}/{s}/{zeros}", f"distance/euclidean/c/{a}/{s}"]

    def _get(self, name: str, where: Any) -> np.ndarray:
        try:
            return np.asarray(_array_of(self.reading, name)[where])
        except Exception as error:  # codecs raise many kinds for damaged bytes
            raise StoreError(
                f"{self.url}: '{name}' cannot be read ({error}); run 'ablatable audit check {self.url}', "
                "then the same 'ablatable universe create' command again"
            ) from error

    def _set(self, name: str, where: Any, values: np.ndarray) -> None:
        _fill(self.group, name, where, values)

    # --- reading ------------------------------------------------------------------------------------------------

    @property
    def factual(self) -> np.ndarray:
        """Factual samples, uint8 (samples, H, W, C)."""
        return _channels_last(self._get("factual", slice(None)))

    def counterfactual(self, unit: str) -> np.ndarray:
        """What would have been drawn without `unit`: uint8 (samples, H, W, C)."""
        return _channels_last(self._get("counterfactual", self.ablation_of(unit)))

    def landscape(self, sample: int) -> np.ndarray:
        """One sample's pictures under every ablation, spares too: uint8 (ablations, H, W, C)."""
        return _channels_last(self._get("counterfactual", (slice(None), self._sample(sample))))

    def ablations(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """All samples under some ablations (rows of `settings.words`): uint8 (rows, samples, H, W, C)."""
        rows = np.asarray(rows)
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first > 2 * len(rows):  # far apart
            return _channels_last(np.stack([self._get("counterfactual", int(row)) for row in rows]))
        return _channels_last(self._get("counterfactual", slice(first, last))[rows - first])

    def training_images(self, unit: str) -> np.ndarray:
        """A unit's training images, uint8 (k, H, W, C)."""
        return self.training.of(unit)

    @cached_property
    def training(self) -> Units:
        """The training data, as stored with the universe."""
        return Units(
            self.units,
            _channels_last(self._get("training/images", slice(None))),
            self._get("training/owner", slice(None)),
        )

    def ablation_of(self, unit: str) -> int:
        """The row of the ablation that removes `unit`; `DataError` if there is no such unit."""
        if unit not in self._row:
            raise DataError(f"no unit '{unit}' in {self.url}; its units are {self.units[0]} .. {self.units[-1]}")
        return self.settings.ablation[self._row[unit]]

    def distances(self, *, scaled: bool = True) -> np.ndarray:
        """Distance of every unit's counterfactual from the factual sample: float32 (units, samples).

        In the paper's unit (pictures scaled to 256 x 256 x 3), or native.
        """
        return self._distances(scaled)[list(self.settings.ablation)]

    def spare_distances(self, *, scaled: bool = True) -> np.ndarray:
        """The same for the spare codewords' ablations, which remove no unit completely: float32 (spares, samples)."""
        return self._distances(scaled)[list(self.settings.spares)]

    def _distances(self, scaled: bool) -> np.ndarray:
        stored = self._get("distance/euclidean", slice(None))
        return stored if scaled else stored / np.float32(native_to_scaled(self.settings.shape))

    def radius(self, *, scaled: bool = True) -> np.ndarray:
        """Counterfactual radius of every sample: float32 (samples,)."""
        return radius(self.distances(scaled=scaled))

    def influence(self, sample: int, *, scaled: bool = True) -> pl.DataFrame:
        """Units by how far their removal moves one sample (an index, from 0), farthest first.

        Columns: rank (from 1), unit, distance (float32).
        """
        import polars as pl

        distances = self.distances(scaled=scaled)[:, self._sample(sample)]
        order = np.argsort(-distances, kind="stable")
        return pl.DataFrame(
            {"rank": np.arange(1, len(order) + 1), "unit": [self.units[k] for k in order], "distance": distances[order]}
        )

    def _sample(self, sample: int) -> int:
        if not 0 <= sample < len(self.seeds):
            raise DataError(
                f"no sample {sample}; there are samples 0 to {len(self.seeds) - 1} "
                f"(seeds {self.seeds[0]} to {self.seeds[-1]})"
            )
        return sample


def check_universe(url: str | Path) -> list[str]:
    """Compare every object of a universe with its hash. Returns what is wrong, one sentence each; empty = intact."""
    try:
        universe = Universe.open(url, partial=True)
    except StoreError as error:
        return [str(error)]
    wrong, laid_out = [], cast("dict[str, str]", universe.reading.attrs["laid_out"])
    for path, digest in laid_out.items():
        try:
            if object_hash(universe.store, path) != digest:
                wrong.append(f"{url}: {path} does not have the hash it was written with")
        except FileNotFoundError:
            wrong.append(f"{url}: {path} is missing")
    for block in universe.blocks():
        if not universe.has(block, verify=False):
            wrong.append(f"{url}: block {block.name} is missing or its marker is damaged")
        elif not universe.has(block):
            wrong.append(f"{url}: block {block.name} does not have the hash it was written with")
    try:
        if list(universe.training.digests) != list(universe.settings.digests):
            wrong.append(f"{url}: the stored training images are not the units it was made from")
        _ = universe.factual, universe.distances()
    except (StoreError, DataError) as error:
        wrong.append(str(error))
    return wrong


def _lay_out(store: Any, settings: UniverseSettings, training: Units, environment: dict[str, str]) -> None:
    """All arrays, empty but for the training data, and the group's attributes."""
    group = zarr.open_group(ObjectStore(store), mode="a", attributes={"ablatable": None})
    samples, (block_a, block_s) = len(settings.seeds), settings.block
    picture = settings.shape
    # chunks divide the block they are in; one holds pictures of one sample, so a landscape reads no other's
    inner = max(
        k for k in range(1, block_a + 1) if block_a % k == 0 and (k == 1 or k * np.prod(picture) <= CHUNK_BYTES)
    )
    _array(group, "factual", (samples, *picture), "uint8", (1, *picture), (block_s, *picture))
    _array(
        group,
        "counterfactual",
        (len(settings.words), samples, *picture),
        "uint8",
        (inner, 1, *picture),
        (block_a, block_s, *picture),
    )
    _array(group, "distance/euclidean", (len(settings.words), samples), "float32", (block_a, block_s))
    pixels = np.moveaxis(training.images, -1, 1)
    _array(group, "training/images", pixels.shape, "uint8", (min(len(pixels), 256), *picture))
    _fill(group, "training/images", slice(None), pixels)
    _array(group, "training/owner", training.owner.shape, "int64", (len(training.owner),))
    _fill(group, "training/owner", slice(None), training.owner)
    fixed = (p for p in paths(store) if p != "zarr.json" and (p.endswith("/zarr.json") or p.startswith("training/")))
    laid_out = {path: object_hash(store, path) for path in sorted(fixed)}
    values = {"ablatable": settings.model_dump(mode="json"), "environment": environment, "laid_out": laid_out}
    group.attrs.update({**values, "sha256": json_hash(values)})


def _array_of(group: zarr.Group, name: str) -> zarr.Array:
    return cast("zarr.Array", group[name])


def _array(
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: str,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
) -> None:
    if name in group:
        _array_of(group, name).resize(tuple(shape))
        return
    group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunks),
        shards=tuple(shards) if shards else None,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0,
    )


def _fill(group: zarr.Group, name: str, where: Any, values: np.ndarray) -> None:
    """Write, zeros too: an all-black picture is a result, not an absence."""
    with zarr.config.set({"array.write_empty_chunks": True}):  # read when the array is opened, and not stored with it
        _array_of(group, name)[where] = values


def _channels_last(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -3, -1)
