"""Write the site: the page's own files, and a run's content beside them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._runtime.files import canonical_json, json_hash, move_folder_into_place, read_json, writing
from .._runtime.outputs import OutputKind, check_clearable, check_contents, check_writable
from ..diffusion.conditions import Condition
from ..errors import SettingsError, StoreError, option
from ..runs.conditioning import asked
from .content import (
    MEGABYTE,
    Content,
    Drawing,
    add_components,
    add_factual,
    add_universe,
    describe,
    drawing_of,
    versions,
)

if TYPE_CHECKING:
    from ..diffusion.recipe import Recipe
    from ..diffusion.sampling_settings import Sampling
    from ..runs.run import Run
    from ..universes.reader import Universe

MANIFEST = "data/manifest.json"
SEEDS = tuple(range(8))
MOST_SEEDS = 500  # on a page's strip: each is a picture that is drawn now and shown at once
STEPS = 25  # without a universe: half as many as the library takes otherwise, as a visitor waits
NOT_SHIPPED = ("*.d.mts",)
GPU_FOLDER = "webgpu"  # what only WebGPU needs, 6.7 MB


@dataclass(frozen=True)
class Site:
    """A site that was written.

    Attributes:
        path: its folder.
        bytes: of all its files.
        needs_server: whether it is too big for a browser, so that `serve` must run the ensemble.
        samples, of: how many of the universe's samples have their stored pictures on it; (0, 0) without a universe.
        was_there: whether an earlier call had written it.
    """

    path: Path
    bytes: int
    needs_server: bool
    samples: int
    of: int
    was_there: bool = False


def write_explorer(
    run: str | Path | Run,
    *,
    out: str | Path,
    universe: str | Path | Universe | None = None,
    seeds: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    conditions: Condition | Sequence[Condition] | None = None,
    max_mb: float = 60,
    webgpu: bool = False,
    overwrite: bool = False,
) -> Site:
    """Write a folder that runs an ensemble in a visitor's browser; any static host can serve it.

    Args:
        run: a trained run, or its path.
        out: the folder. A site of the same run and settings that is there is kept.
        universe: a universe of the run. Its pictures, distances, p and q are put on the page, and the page draws its
            seeds in its way.
        seeds: without a universe, the samples on the page, at most 500; 0 to 7 if not given.
        sampling: without a universe, how they are drawn; `ddpm` with 25 steps if not given.
        conditions: without a universe, what they are to show, see `enumerate_universe`. A server draws them.
        max_mb: an ensemble of more megabytes is not sent to browsers: the page then asks a server to draw (see
            `serve_site`). Stored pictures beyond it are left out, the last samples first.
        webgpu: put the program on the site that runs networks on a visitor's GPU (6.7 MB, fetched only by browsers that
            have WebGPU). A browser takes the GPU if it agrees with its processor and is faster.
        overwrite: replace a site that is there.

    Raises:
        SettingsError: `out` holds something else; `universe` is another run's, or settings are given beside it; or a
            package that exports is missing.
        StoreError: the run or the universe cannot be read, or `out` cannot be written.
    """
    from ..runs.run import Run
    from ..universes.reader import Universe

    opened = run if isinstance(run, Run) else Run(run)
    stored = universe if universe is None or isinstance(universe, Universe) else Universe.open(universe)
    drawing = _drawing(opened, stored, seeds, sampling, conditions)
    source = {
        "run_sha256": opened.digest,
        "universe_sha256": None if stored is None else json_hash(stored.settings.model_dump(mode="json")),
        "drawing": drawing.described(),
        "max_mb": max_mb,
        **versions(),
        **({"webgpu": True} if webgpu else {}),
    }
    folder = Path(out)
    if (there := _kept(folder, source, overwrite)) is not None:
        return there
    content = describe(opened, drawing)
    _fill(content, opened, drawing, stored, int(max_mb * MEGABYTE))
    content.manifest["source"] = source
    if webgpu and content.manifest["files"]["components"]:
        content.manifest["webgpu"] = {}
    _write(folder, content)
    return _told(folder, content.manifest, was_there=False)


def serve_site(
    run: str | Path | Run,
    site: Site,
    *,
    port: int = 0,
    open_browser: bool = True,
    announce: Callable[[str], Any] = print,
) -> None:
    """Serve a site on 127.0.0.1 until Ctrl-C; if it needs a server, the run draws for it in this process."""
    from ..runs.run import Run

    if not site.needs_server:
        from .serving import serve_files

        serve_files(site.path, port, open_browser=open_browser, announce=announce)
        return
    from .server import application, serve_ensemble

    manifest = read_json(site.path / MANIFEST)
    sampling = _sampling(manifest)
    opened = run if isinstance(run, Run) else Run(run)
    conditions = [Condition(**each) for each in manifest.get("conditions", ())]
    known = dict(zip(manifest["seeds"], conditions, strict=True)) if conditions else {}
    app = application(opened, site.path, sampling, conditions=known)
    serve_ensemble(app, site.path, port, open_browser=open_browser, announce=announce)


def _fill(content: Content, run: Run, drawing: Drawing, universe: Universe | None, limit: int) -> None:
    """Components where they fit, exact pictures, and as much of a universe as fits."""
    if browsable(run.recipe) and _weights_size(run) + content.size <= limit:
        add_components(content, run)
    else:
        content.manifest["engine"] = "server"
    if universe is not None:
        add_universe(content, universe, limit - content.size)
        seeds = tuple(content.manifest["seeds"])
        drawing = replace(drawing, seeds=seeds, conditions=drawing.conditions and drawing.conditions[: len(seeds)])
    add_factual(content, run, drawing, universe)


def browsable(recipe: Recipe) -> bool:
    """Whether the page's own engine can draw: it knows linear schedules, no codec and no conditions.

    A server draws all there is.
    """
    linear = recipe.schedule.curve == "linear" and recipe.schedule.trained_betas is None
    return linear and recipe.latent is None and recipe.component.takes is None


def _weights_size(run: Run) -> int:
    if run.recipe.component.kind == "ideal":
        return 0
    return sum(file.stat().st_size for i in range(run.code.components) for file in run.component_folder(i).iterdir())


def _sampling(manifest: dict[str, Any]) -> Sampling:
    """How a site's pictures are drawn."""
    from dataclasses import fields

    from ..diffusion.sampling_settings import Sampling

    return Sampling(**{field.name: manifest[field.name] for field in fields(Sampling) if field.name in manifest})


def _drawing(
    run: Run,
    universe: Universe | None,
    seeds: Sequence[int] | None,
    sampling: Sampling | None,
    conditions: Condition | Sequence[Condition] | None,
) -> Drawing:
    from ..diffusion.sampling import parse_seeds
    from ..diffusion.sampling_settings import Sampling

    if universe is not None:
        if seeds is not None or sampling is not None or conditions is not None:
            raise SettingsError(
                f"{option('universe')} brings its own seeds, sampler, steps and conditions; leave these out, or the "
                "universe"
            )
        return drawing_of(universe, run)
    sampling = sampling or Sampling(steps=STEPS)
    sampling.check(run.recipe.schedule)
    chosen = tuple(SEEDS if seeds is None else parse_seeds(seeds))
    if len(chosen) > MOST_SEEDS:
        raise SettingsError(
            f"{len(chosen):,} seeds are too many for one page: every one is drawn now, and all stand side by side; "
            f"choose at most {MOST_SEEDS}"
        )
    return Drawing(chosen, sampling, asked(run, conditions, len(chosen), sampling.guidance))


def _kept(folder: Path, source: dict[str, Any], overwrite: bool) -> Site | None:
    """The site that is there, if it is the one asked for; `SettingsError` if something else is, or it cannot go."""
    kind = _output_kind()
    check_contents(folder, kind)
    check_writable(folder.parent)
    manifest = folder / MANIFEST
    if overwrite and manifest.exists():
        check_clearable(folder, kind)
    if overwrite or not manifest.exists():
        return None
    there = read_json(manifest)
    if there.get("source") != source:
        raise SettingsError(
            f"{folder} holds the explorer of another run, universe or settings; choose another {option('out')}, "
            f"or replace it with {option('overwrite', True)}"
        )
    return _told(folder, there, was_there=True)


def page_folder() -> Path:
    """The page's own files: in an installed package beside this module, in a checkout under `web/site`."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "page", here.parents[3] / "web" / "site"):
        if (folder / "index.html").exists():
            return folder
    raise StoreError("this installation has no explorer page; install ablatable again")


def _output_kind() -> OutputKind:
    """What a site's folder holds: it is replaced as a whole, so it may hold nothing else then."""
    page = page_folder()
    own = [re.escape(path.relative_to(page).as_posix()) for path in page.rglob("*") if path.is_file()]
    return OutputKind(
        what="explorer",
        marker=MANIFEST,
        recognises=lambda value: "run_sha256" in value["source"],
        files=(*own, r"README\.md", r"data/manifest\.json", r"data/([\w.-]+/)?[\w.-]+\.(gz|onnx)"),
        closed=(".",),
    )


def _write(folder: Path, content: Content) -> None:
    """Everything aside, then moved into place at once."""
    with writing(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        aside = Path(beside) / folder.name
        left_out = (*NOT_SHIPPED, *(() if "webgpu" in content.manifest else (GPU_FOLDER,)))
        shutil.copytree(page_folder(), aside, ignore=shutil.ignore_patterns(*left_out))
        for name, data in {
            **content.files,
            MANIFEST: canonical_json(content.manifest),
            "README.md": readme(content.manifest).encode(),
        }.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        move_folder_into_place(aside, folder)


def _told(folder: Path, manifest: dict[str, Any], *, was_there: bool) -> Site:
    stored = manifest.get("stored") or {"samples": [], "of": 0}
    return Site(
        path=folder,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        needs_server=manifest["engine"] == "server",
        samples=len(stored["samples"]),
        of=stored["of"],
        was_there=was_there,
    )


def readme(manifest: dict[str, Any]) -> str:
    """The folder's README.md. Its header makes the folder a static Space of the Hugging Face Hub as it is."""
    return f"""---
title: What would it have drawn without you?
emoji: 💡
colorFrom: yellow
colorTo: gray
sdk: static
app_file: index.html
pinned: false
---

# What would it have drawn without you?

Remove training data from a diffusion ensemble and watch the same noise denoise again without it. The page runs
{manifest["components"]} components, trained on {len(manifest["units"])} units, in your own browser.
It asks no other host for anything.

To look at it on your own machine, serve this folder, for example with `python -m http.server -b 127.0.0.1`, and
open the address that it prints.

Made with ablatable {manifest["ablatable"]}. The folder `vendor` holds ONNX Runtime Web, under the licence beside it.
"""
