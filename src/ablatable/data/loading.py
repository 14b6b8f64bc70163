"""From a source's entries to pictures in order: decoded at the same time, checked, without copies in two units."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypedDict

import numpy as np

from .._runtime.progress import Display
from .._runtime.workers import default_workers
from ..errors import DataError, option
from . import duplicates, load_cache
from .images import (
    Background,
    Colour,
    Size,
    background_name,
    check_channels,
    fit,
    parse_background,
    parse_size,
    recolour,
)
from .load_cache import Pictures
from .load_report import LoadReport
from .sources import Entry, Source
from .words import Said, columns

BLOCK = 32  # pictures decoded at the same time, before they are fitted: they may be large
SHOW_FROM = 500  # fewer files are read before a progress bar could be seen
THREADS = 8  # decoders leave Python's lock, but not for all of their work


class LoadOptions(TypedDict, total=False):
    """What every source of units takes; see `Units`."""

    size: Size
    channels: int | None
    background: Background
    skip_broken: bool
    duplicates: str
    cache: bool
    quiet: bool


@dataclass(frozen=True)
class LoadSettings:
    """`LoadOptions`, checked and complete."""

    size: tuple[int, int] | None
    channels: int | None
    background: Colour
    skip_broken: bool
    duplicates: str
    cache: bool
    quiet: bool

    @classmethod
    def of(cls, options: LoadOptions, *, duplicated: str = "refuse") -> LoadSettings:
        """`duplicated`: what is done with equal pictures unless the options say. `SettingsError` for the impossible."""
        unknown = sorted(options.keys() - LoadOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"there is no option {unknown[0]!r}; there are {', '.join(LoadOptions.__annotations__)}")
        policy = options.get("duplicates", duplicated)
        duplicates.check_policy(policy)
        check_channels(options.get("channels"))
        return cls(
            size=parse_size(options.get("size")),
            channels=options.get("channels"),
            background=parse_background(options.get("background", "white")),
            skip_broken=options.get("skip_broken", False),
            duplicates=policy,
            cache=options.get("cache", True),
            quiet=options.get("quiet", False),
        )


@dataclass(frozen=True)
class Loaded:
    """What `Units` is made of. The images are read-only, units one after the other, within a unit by hash."""

    ids: tuple[str, ...]
    images: np.ndarray
    owner: np.ndarray
    report: LoadReport
    labels: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None


def load(source: Source, settings: LoadSettings) -> Loaded:
    """Decode everything, or read it from the cache, and settle whose the pictures are."""
    if not source.entries:
        raise DataError("no images found; expected at least one")
    pictures = _pictures(source, settings)
    pictures, shared, remarks = _settle_duplicates(pictures, settings.duplicates)
    ids = tuple(dict.fromkeys(pictures.units))
    rows = {id: row for row, id in enumerate(ids)}
    alike = duplicates.alike_names(ids)
    _, height, width, channels = pictures.images.shape
    report = LoadReport(
        source=source.name,
        images=len(pictures.images),
        units=len(ids),
        unit_is=source.unit_is,
        shape=(channels, height, width),
        background=background_name(settings.background),
        channels_given=settings.channels is not None,
        duplicates=settings.duplicates,
        skip_broken=settings.skip_broken,
        converted=dict(sorted(Counter(note for notes in pictures.notes for note in notes).items())),
        skipped=dict(sorted(source.skipped.items())),
        broken=tuple(pictures.broken),
        remarks=(*source.remarks, *remarks, *([alike] if alike else []), *pictures.warnings),
        shared=shared,
        names=tuple(pictures.names),
    )
    pictures.images.flags.writeable = False
    owner = np.array([rows[unit] for unit in pictures.units], np.int64)
    labels, captions = _words(source, pictures)
    return Loaded(ids, pictures.images, owner, report, labels, captions)


def _words(source: Source, pictures: Pictures) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Each picture's label and caption; of equal pictures of one unit in order, as `Units` has them."""
    of = {entry.name: (entry.label, entry.caption) for entry in source.entries}
    said: list[Said] = []
    for _, alike in groupby(zip(pictures.units, pictures.hashes, pictures.names, strict=True), lambda each: each[:2]):
        said += sorted((of[name] for *_, name in alike), key=lambda words: tuple(word or "" for word in words))
    return columns(said)


def _pictures(source: Source, settings: LoadSettings) -> Pictures:
    slot = None
    if settings.cache:
        kept = ("size", "channels", "background", "skip_broken")
        slot = load_cache.slot(source, {name: getattr(settings, name) for name in kept})
    if slot is None:
        return _decode_all(source, settings, None)
    pictures = slot.read()
    if pictures is None:
        pictures = _decode_all(source, settings, slot)
        slot.write(pictures)
    elif not settings.quiet and len(pictures.images) >= SHOW_FROM:
        with Display("reading images", 1) as display:
            display.say(f"{len(pictures.images)} from the cache")
            display.finish(0, 1)
    return pictures


# --- decoding ---


class _Kept(NamedTuple):
    """What is remembered of a picture beside its pixels."""

    unit: str
    name: str
    digest: bytes
    notes: tuple[str, ...]


class _Read(NamedTuple):
    """One picture that was decoded."""

    pixels: np.ndarray
    digest: bytes
    notes: tuple[str, ...]


def _read(entry: Entry, settings: LoadSettings) -> _Read | DataError:
    try:
        pixels, notes = entry.load(settings.background)
    except DataError as error:
        return error
    if settings.channels is not None and settings.channels != pixels.shape[-1]:
        notes = (*notes, "to colour" if settings.channels == 3 else "to grey")
    pixels = np.ascontiguousarray(fit(recolour(pixels, settings.channels), settings.size))
    return _Read(pixels, hashlib.sha256(pixels.data).digest(), notes)


def _decode_all(source: Source, settings: LoadSettings, slot: load_cache.Slot | None) -> Pictures:
    """Decode one block of pictures after another into one array, each at its unit's place."""
    rows = {unit: row for row, unit in enumerate(dict.fromkeys(entry.unit for entry in source.entries))}
    entries = sorted(source.entries, key=lambda entry: rows[entry.unit])
    images = np.empty(0, np.uint8)
    read: list[_Kept] = []
    broken: list[str] = []
    with _decoding(source, settings) as (apply, warned, progress):
        for start in range(0, len(entries), BLOCK):
            block = entries[start : start + BLOCK]
            for entry, result in zip(block, apply(lambda entry: _read(entry, settings), block), strict=True):
                if isinstance(result, DataError):
                    if source.folder is None and not settings.skip_broken:
                        raise result
                    broken.append(str(result))
                    continue
                if not read:
                    images = load_cache.allocate(len(entries), result.pixels.shape, slot.file() if slot else None)
                elif result.pixels.shape != images.shape[1:]:
                    raise DataError(_disagreement(read[0].name, images.shape[1:], entry.name, result.pixels.shape))
                images[len(read)] = result.pixels
                read.append(_Kept(entry.unit, entry.name, result.digest, result.notes))
            progress(len(block))
    _refuse_broken(broken, len(entries), settings.skip_broken)
    images = _trimmed(images, len(read))
    kept = _sort_within_units(images, read)
    return Pictures(
        images=images,
        units=[picture.unit for picture in kept],
        names=[picture.name for picture in kept],
        hashes=[picture.digest for picture in kept],
        notes=[picture.notes for picture in kept],
        broken=broken,
        warnings=_warnings(warned),
    )


Apply = Callable[[Callable[[Entry], "_Read | DataError"], Sequence[Entry]], "Iterator[_Read | DataError]"]


@contextmanager
def _decoding(
    source: Source, settings: LoadSettings
) -> Iterator[tuple[Apply, list[warnings.WarningMessage], Callable[[int], None]]]:
    """How to map over entries (with threads, if each has a file of its own), warnings caught, and the progress."""
    many = len(source.entries) >= (SHOW_FROM if source.folder else 50 * SHOW_FROM) and not settings.quiet
    with ExitStack() as stack:
        warned = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        apply: Apply = map
        if source.folder is not None and len(source.entries) > 1:
            apply = stack.enter_context(ThreadPoolExecutor(min(THREADS, default_workers()))).map
        display = stack.enter_context(Display("reading images", len(source.entries), resumes=False)) if many else None
        yield apply, warned, lambda count: display.finish(0, count) if display else None


def _warnings(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What the decoder warned of, each message once; that a picture is large is told otherwise."""
    texts = Counter(
        " ".join(str(warning.message).split())
        for warning in caught
        if issubclass(warning.category, UserWarning | RuntimeWarning)
        and warning.category.__name__ != "DecompressionBombWarning"
    )
    return [f"the image decoder warned {count} times: {text}" for text, count in texts.most_common(duplicates.SHOWN)]


def _refuse_broken(broken: Sequence[str], count: int, skip: bool) -> None:
    """`DataError` that lists all broken pictures, unless they are to be skipped and others are left."""
    if len(broken) == count and skip:
        raise DataError(f"no images are left: none of {count} can be read, such as {broken[0]}")
    if broken and not skip:
        remedy = f"{option('skip_broken', True)} leaves out what cannot be read"
        if len(broken) == 1:
            raise DataError(f"{broken[0]} ({remedy})")
        raise DataError("\n".join([f"{len(broken)} pictures are broken:", *broken, f"({remedy})"]))


def _trimmed(images: np.ndarray, count: int) -> np.ndarray:
    return (
        images if count == len(images) else images[:count] if isinstance(images, np.memmap) else images[:count].copy()
    )


def _sort_within_units(images: np.ndarray, read: Sequence[_Kept]) -> list[_Kept]:
    """Sort each unit's images by their hash, in place; returns what is known of them in that order."""
    ordered, start = [], 0
    for _, family in groupby(read, key=lambda picture: picture.unit):
        members = list(family)
        order = sorted(range(len(members)), key=lambda place: members[place].digest)
        if order != list(range(len(members))):
            images[start : start + len(members)] = images[start : start + len(members)][order]
        ordered += [members[place] for place in order]
        start += len(members)
    return ordered


def _disagreement(first: str, first_shape: tuple[int, ...], name: str, shape: tuple[int, ...]) -> str:
    (height, width, channels), (h, w, c) = first_shape, shape
    if (height, width) != (h, w):
        return (
            f"mixed sizes: {first} is {height}x{width}, {name} is {h}x{w} (height x width); "
            f"give one size for all: {option('size', 28)}"
        )
    kinds = {1: "grey", 3: "in colour"}
    return (
        f"mixed channels: {first} is {kinds[channels]}, {name} is {kinds[c]}; "
        f"give {option('channels', 1)} (grey) or {option('channels', 3)} (colour)"
    )


# --- equal pictures ---


def _settle_duplicates(pictures: Pictures, policy: str) -> tuple[Pictures, str | None, list[str]]:
    """Do with pictures that several units have as the policy says; a sentence on them, and other remarks."""
    found = duplicates.find(pictures.hashes, pictures.units, pictures.names)
    remarks = [f"{found.within} images are copies of another of the same unit"] if found.within else []
    if not found.groups:
        return pictures, None, remarks
    if policy == "refuse":
        duplicates.refuse(found)
    if policy == "keep":
        return pictures, f"{found.told()}; kept: when one of these units is removed, the picture stays", remarks
    if policy == "merge":
        new = found.merged()
        units = [new.get(unit, unit) for unit in pictures.units]
        merged = list(dict.fromkeys(new.values()))
        told = f"{found.told()}; {len(new)} units merged into {len(merged)}: {duplicates.some(merged)}"
        return _arranged(pictures, units, range(len(units))), told, remarks
    shared = {place for group in found.groups for place in group}
    kept = [place for place in range(len(pictures.units)) if place not in shared]
    if not kept:
        raise DataError(f"no images are left: {found.told()}, and {duplicates.named('drop')} leaves them out")
    left = {pictures.units[place] for place in kept}
    empty = [unit for unit in found.owners if unit not in left]
    gone = f"; {len(empty)} units had no others and are gone: {duplicates.some(empty)}" if empty else ""
    return _arranged(pictures, pictures.units, kept), f"{found.told()}; {len(shared)} images left out{gone}", remarks


def _arranged(pictures: Pictures, units: Sequence[str], kept: Sequence[int]) -> Pictures:
    """Only these images, under these units, in order."""
    rows = {unit: row for row, unit in enumerate(dict.fromkeys(units))}
    order = sorted(kept, key=lambda place: (rows[units[place]], pictures.hashes[place]))
    return Pictures(
        images=pictures.images[order],
        units=[units[place] for place in order],
        names=[pictures.names[place] for place in order],
        hashes=[pictures.hashes[place] for place in order],
        notes=[pictures.notes[place] for place in order],
        broken=pictures.broken,
        warnings=pictures.warnings,
    )
