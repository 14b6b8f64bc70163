"""What a page needs to know of a run: one JSON manifest and a few packed files, all plain numbers."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.provenance import environment
from .._version import __version__
from ..errors import CodeError, SettingsError, option
from ..runs.conditioning import given_of

if TYPE_CHECKING:
    from ..diffusion.conditions import Condition
    from ..diffusion.sampling_settings import Sampling
    from ..runs.run import Run
    from ..universes.reader import Universe

FORMAT = 1
SPARES = 64  # spare codewords told to the page when no universe says which were drawn
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Drawing:
    """How the page draws.

    Attributes:
        seeds: samples on the page's strip.
        sampling: how every picture is drawn; in single precision, whatever it says of that.
        conditions: what each sample is to show; None = nothing in particular.
    """

    seeds: tuple[int, ...]
    sampling: Sampling
    conditions: tuple[Condition, ...] | None = None

    def described(self) -> dict[str, Any]:
        """The manifest's words for it; `asked` says the conditions to people."""
        sampling, asked = self.sampling, self.conditions
        conditions = {} if asked is None else {"conditions": [each.model_dump() for each in asked]}
        conditions |= {} if asked is None else {"asked": list(map(str, asked))}
        return {
            "seeds": list(self.seeds),
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "threshold": sampling.threshold,
            "clip": sampling.clip,
            **({} if sampling.guidance == 1 else {"guidance": sampling.guidance}),
            **conditions,
        }


@dataclass
class Content:
    """The files of a site's `data` folder by name, and its manifest."""

    manifest: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def packed(array: np.ndarray) -> bytes:
    """An array's bytes (little-endian, C order), gzipped; the same array gives the same bytes."""
    return gzip.compress(np.ascontiguousarray(array).tobytes(), compresslevel=9, mtime=0)


def describe(run: Run, drawing: Drawing) -> Content:
    """What the page tells of the run itself: units, codewords, training images, how to draw."""
    units = run.units()
    counts = np.bincount(units.owner, minlength=len(units))
    words = run.code.words()
    content = Content(
        {
            "format": FORMAT,
            "ablatable": __version__,
            "run_sha256": run.digest,
            "kind": run.recipe.component.kind,
            "engine": "browser",
            "shape": list(run.shape),
            "components": run.code.components,
            "numbers": list(run.present),
            "schedule": run.recipe.schedule.model_dump(),
            **drawing.described(),
            "units": [
                {"id": unit, "images": int(count), "word": word}
                for unit, count, word in zip(run.unit_ids, counts, words, strict=True)
            ],
            "spares": _spare_words(run),
            "files": {"images": "data/images.bin.gz", "components": []},
        }
    )
    content.files["data/images.bin.gz"] = packed(np.moveaxis(units.images, -1, 1))
    return content


def add_components(content: Content, run: Run) -> None:
    """The trained components as ONNX; an ideal ensemble has none, as its images are all there is to it."""
    if run.recipe.component.kind == "ideal":
        return
    from .networks import onnx_files

    def components() -> Iterator[Any]:
        return (run.load_component(index) for index in range(run.code.components))

    for index, model in enumerate(onnx_files(components(), run.shape)):
        name = f"data/components/{run.present[index]:02d}.onnx"
        content.manifest["files"]["components"].append(name)
        content.files[name] = model


def add_factual(content: Content, run: Run, drawing: Drawing, universe: Universe | None) -> None:
    """The exact factual pictures of the page's seeds, the universe's or drawn now, and the witness test of them."""
    if universe is not None:
        rows = [universe.seeds.index(seed) for seed in drawing.seeds]
        pictures = np.moveaxis(universe.factual[rows], -1, 1)
    else:
        from ..runs.batches import BATCH
        from ..universes.drawing import draw

        pictures = draw(
            run.ensemble(batch=BATCH["fp32"]),
            np.zeros((1, run.code.components), bool),
            drawing.seeds,
            shape=run.noise_shape,
            codec=run.codec,
            schedule=run.recipe.schedule,
            sampling=drawing.sampling,
            given=given_of(run, drawing.conditions, len(drawing.seeds), drawing.sampling.guidance),
        )[0]
    content.manifest["files"]["factual"] = "data/factual.bin.gz"
    content.files["data/factual.bin.gz"] = packed(pictures)
    _add_witness(content, run, np.moveaxis(pictures, 1, -1), drawing)


def _add_witness(content: Content, run: Run, pictures: np.ndarray, drawing: Drawing) -> None:
    """What the components say about the exact factual pictures: p and q, float32 (2, units, samples).

    A run of a single component has none, as the test compares components with one another.
    """
    from ..analysis.witness import ALPHA, LEVEL, witness_pictures

    if len(run.present) < 2:
        return
    told = witness_pictures(run, pictures, drawing.seeds, conditions=drawing.conditions)
    content.manifest["witness"] = {
        "tests": "data/witness.bin.gz",
        "alpha": ALPHA,
        "level": LEVEL,
        "exact": told.exact,
        "least_q": told.least_q(),
    }
    content.files["data/witness.bin.gz"] = packed(np.stack([told.p, told.q]).astype(np.float32))


def add_universe(content: Content, universe: Universe, room: int) -> None:
    """Stored pictures, distances and tests of the first samples that fit into `room` bytes; at least one sample's.

    Per sample one file, uint8 (ablations, C, H, W); for all of them float32 distances (ablations, samples), and p and q
    (units, samples) where there are spares.
    """
    from ..analysis.calibration import LEVEL, calibrate

    settings = universe.settings
    samples: list[str] = []
    for sample in range(len(universe.seeds)):
        pictures = packed(np.moveaxis(universe.landscape(sample), -1, 1))
        if samples and len(pictures) > room:
            break
        room -= len(pictures)
        samples.append(f"data/samples/{sample:03d}.bin.gz")
        content.files[samples[-1]] = pictures
    kept = list(range(len(samples)))
    distances = np.empty((len(settings.words or ()), len(kept)), np.float32)
    distances[list(settings.ablation)] = universe.distances()[:, kept]
    stored: dict[str, Any] = {
        "words": list(settings.words or ()),
        "ablation": list(settings.ablation),
        "spares": list(settings.spares),
        "samples": samples,
        "of": len(universe.seeds),
        "distances": "data/distances.bin.gz",
    }
    if settings.spares:
        distances[list(settings.spares)] = universe.spare_distances()[:, kept]
        tested = calibrate(universe, samples=kept, statistic="likeness")  # against the spares that the page shows
        stored |= {
            "statistic": tested.statistic,
            "level": LEVEL,
            "tests": "data/tests.bin.gz",
            "radius_p": [round(float(p), 6) for p in tested.radius_p],
        }
        content.files["data/tests.bin.gz"] = packed(np.stack([tested.p, tested.q]).astype(np.float32))
    content.files["data/distances.bin.gz"] = packed(distances)
    content.manifest["stored"] = stored
    for each in ("seeds", "conditions", "asked"):
        if each in content.manifest:
            content.manifest[each] = content.manifest[each][: len(samples)]


def drawing_of(universe: Universe, run: Run) -> Drawing:
    """How a universe's pictures were drawn; `SettingsError` unless they are this run's, all units of it."""
    settings = universe.settings
    if settings.run_sha256 != run.digest:
        raise SettingsError(
            f"{universe.url} is not a universe of the run {run.path}: it was made from run {settings.run_sha256}, "
            f"this is {run.digest}; give the run it was made from, or no universe"
        )
    if settings.units != run.unit_ids:
        raise SettingsError(
            f"{universe.url} holds {len(settings.units)} of the run's {len(run.unit_ids)} units; the explorer "
            f"needs all of them: draw it without {option('units')}"
        )
    return Drawing(universe.seeds, settings.sampling, settings.conditions)


def versions() -> dict[str, str]:
    """What the site was made with."""
    return environment()


def _spare_words(run: Run) -> list[str]:
    """Some codewords that no unit has, as many as there are up to `SPARES`; none if codewords differ in weight."""
    try:
        words = run.code.spares(min(SPARES, run.code.spare_capacity))
    except CodeError:
        return []
    return ["".join("1" if bit else "0" for bit in word) for word in words]
