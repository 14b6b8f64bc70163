"""A universe on disk: factual samples and the counterfactual of every ablation, in a checksummed Zarr v3 group.

Its arrays are written a block at a time (`block` = ablations x samples), one writer a block. A block that is finished
has a marker beside the arrays, with the hash of every object it wrote: what has no marker, or does not match it, is
computed again and never served.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import ObjectStore

from .distance import native_to_scaled, radius
from .errors import DataError, SettingsError, StoreError
from .files import json_hash, writing
from .lock import LOCK_FILES
from .settings import compare_settings, environment
from .units import Units
from .workers import chunks

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
    precision: str = "fp32"
    threshold: int | None = None  # pictures are delivered in pure black and white: levels from here up are white
    batch: int  # rows a component sees at once
    block: tuple[int, int]  # ablations, samples
    seeds: tuple[int, ...]
    units: tuple[str, ...]
    digests: tuple[str, ...]
    words: tuple[str, ...]  # the ablations: distinct codewords; empty texts if imported, as nobody recorded them
    ablation: tuple[int, ...]  # each unit's row of `words`
    spares: tuple[int, ...] = ()  # rows of `words` that are no unit's

    @property
    def imported(self) -> bool:
        """Whether it came from a file (see `ctf`): then it has no run, no codewords and no noise on record."""
        return self.components == 0


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
        self.reading = zarr.open_group(_NothingAssumed(store, read_only=True), mode="r")
        self.units, self.seeds = settings.units, settings.seeds
        self._row = {unit: row for row, unit in enumerate(settings.units)}

    # --- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, url: str | Path, settings: UniverseSettings, training: Units, environment: dict[str, str]
    ) -> Universe:
        """Lay out an empty universe. Its settings are written last: with them, all arrays are there."""
        store = open_store(url)
        with writing(url):
            _lay_out(store, settings, training, environment)
        return cls(url, settings, store)

    @classmethod
    def begin(
        cls, url: str | Path, settings: UniverseSettings, training: Callable[[], Units], *, overwrite: bool = False
    ) -> Universe:
        """Go on with the universe of these settings that is there, or lay out an empty one.

        Raises:
            SettingsError: what is there was made with other settings (both values are named), or is no universe.
        """
        sweep(url)
        match state_of(url):
            case "other":
                raise SettingsError(
                    f"{url} holds other files and no universe, so they are left alone; "
                    "choose another --out, or delete them yourself"
                )
            case "universe" if not overwrite:
                universe = cls.open(url, partial=True)
                compare_settings(universe.settings.model_dump(mode="json"), settings.model_dump(mode="json"), url)
                return universe
            case "universe" | "begun":
                clear(url)
        return cls.create(url, settings, training(), environment())

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
            raise StoreError(
                f"there is no readable universe at {url} ({type(error).__name__}); "
                f"make one with 'ablatable universe RUN --out {url}'"
            ) from error
        universe = cls(url, settings, store)
        if not partial:
            blocks = list(universe.blocks())
            missing = [block for block in blocks if not universe.has(block, verify=False)]
            if missing:
                raise StoreError(
                    f"{url} is unfinished: {len(blocks) - len(missing)} of {len(blocks)} blocks are there; "
                    "give the same 'ablatable universe' command again"
                )
        return universe

    # --- blocks -------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """Every block, the factual ones first."""
        block_a, block_s = self.settings.block
        samples = list(chunks(len(self.seeds), block_s))
        yield from (Block(s) for s in samples)
        yield from (Block(s, a) for a in chunks(len(self.settings.words), block_a) for s in samples)

    def write(self, block: Block, pictures: np.ndarray) -> None:
        """Store a block's pictures, uint8 (ablations, samples, C, H, W), and their distances; then its marker."""
        from .distance import euclidean

        with writing(self.url):
            first, last = block.samples
            for key in self._keys(block):
                _delete(self.store, key)  # what is there may be torn, and Zarr would try to read it first
            if block.ablations is None:
                self._set("factual", slice(first, last), pictures[0])
            else:
                rows = slice(*block.ablations)
                factual = self._get("factual", slice(first, last))
                self._set("counterfactual", (rows, slice(first, last)), pictures)
                self._set("distance/euclidean", (rows, slice(first, last)), euclidean(pictures, factual))
            hashes = {key: _hash(self.store, key) for key in self._keys(block)}
            self.store.put(f"done/{block.name}.json", json.dumps({"rows": block.rows, "sha256": hashes}).encode())

    def has(self, block: Block, *, verify: bool = True) -> bool:
        """Whether a block is finished; with `verify`, whether its bytes are still those that were written."""
        try:
            marker = json.loads(_bytes(self.store, f"done/{block.name}.json"))
            hashes = marker["sha256"]
            if marker["rows"] != block.rows or set(hashes) != set(self._keys(block)):
                return False
            if not verify:
                return all(self.store.head(key) for key in hashes)
            return all(_hash(self.store, key) == digest for key, digest in hashes.items())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

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
            return np.asarray(self.reading[name][where])  # pyright: ignore[reportIndexIssue]
        except Exception as error:  # codecs raise many kinds for damaged bytes
            raise StoreError(
                f"{self.url}: '{name}' cannot be read ({error}); run 'ablatable check {self.url}', "
                "then the same 'ablatable universe' command again"
            ) from error

    def _set(self, name: str, where: Any, values: np.ndarray) -> None:
        # what an array was created with in this respect is not stored with it; all-black pictures are written too
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.group[name][where] = values  # pyright: ignore[reportIndexIssue]

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
            if _hash(universe.store, path) != digest:
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


class _NothingAssumed(ObjectStore[Any]):
    """A store in which a missing or empty chunk is an error. To Zarr it would be a black picture that nobody drew."""

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        value = await super().get(key, *arguments, **options)
        if "/c/" in key and (value is None or len(value) == 0):
            raise FileNotFoundError(f"{key} is missing or empty")
        return value


_MEMORY: dict[str, Any] = {}


def open_store(url: str | Path, *, create: bool = True) -> Any:
    """An obstore store for a local path or an object-store URL (s3://, gs://, az://; memory:// within one process)."""
    import obstore.store as stores

    text = str(url)
    if text.startswith("memory://"):
        return _MEMORY.setdefault(text, stores.MemoryStore())
    if "://" in text:
        return stores.from_url(text)
    path = Path(text).resolve()
    if not create and not path.is_dir():
        raise StoreError(f"there is no universe at {url}; make one with 'ablatable universe RUN --out {url}'")
    try:
        return stores.LocalStore(path, mkdir=create)
    except Exception as error:
        raise StoreError(f"cannot create {url} ({error}); choose a place that is writable") from error


def state_of(url: str | Path) -> str:
    """What is at a place: `nothing`, a `universe`, one that is `begun` (not laid out yet), or `other` files."""
    store = open_store(url)
    paths = _paths(store)
    if not paths:
        return "nothing"
    try:
        attributes = json.loads(_bytes(store, "zarr.json"))["attributes"]
        return "begun" if attributes["ablatable"] is None else "universe"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "other"


def clear(url: str | Path) -> None:
    """Remove a universe's objects but for its root, which from now on says that it is only begun."""
    store = open_store(url)
    zarr.open_group(ObjectStore(store), mode="r+").attrs.put({"ablatable": None})
    store.delete([path for path in _paths(store) if path != "zarr.json"])


def sweep(url: str | Path) -> None:
    """Remove the files, on a local disk, that killed writers left; the store itself neither lists nor reads them."""
    if "://" not in str(url):
        for aside in Path(url).rglob("*#*"):
            if aside.name.rpartition("#")[2].isdecimal():
                aside.unlink(missing_ok=True)


def _paths(store: Any) -> list[str]:
    """Every object there is, but for a lock's."""
    return [path for page in store.list() for item in page if (path := str(item["path"])) not in LOCK_FILES]


def _bytes(store: Any, path: str) -> bytes:
    return bytes(store.get(path).bytes())


def _hash(store: Any, path: str) -> str:
    return hashlib.sha256(_bytes(store, path)).hexdigest()


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
    _array(group, "training/images", pixels.shape, "uint8", (min(len(pixels), 256), *picture))[:] = pixels
    _array(group, "training/owner", training.owner.shape, "int64", (len(training.owner),))[:] = training.owner
    laid_out = {path: _hash(store, path) for path in sorted(_paths(store)) if path != "zarr.json"}
    values = {"ablatable": settings.model_dump(mode="json"), "environment": environment, "laid_out": laid_out}
    group.attrs.update({**values, "sha256": json_hash(values)})


def _array(
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: str,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
) -> zarr.Array:
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunks),
        shards=tuple(shards) if shards else None,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},  # an all-black picture is a result, not an absence
    )


def _delete(store: Any, key: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        store.delete(key)


def _channels_last(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -3, -1)
