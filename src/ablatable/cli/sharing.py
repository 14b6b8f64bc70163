"""The commands that share results with other people: run push, universe push, universe bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SettingsError
from .common import Json, Overwrite, RunPath, UniverseUrl, example, runs, universes
from .output import next_step, print_json, print_rows, quoted, say

Repository = Annotated[str, typer.Argument(help="Where on the Hugging Face Hub, as user/name.", metavar="NAME")]
Private = Annotated[bool, typer.Option("--private", help="Make it a private repository.")]
Revision = Annotated[str | None, typer.Option(help="The branch to commit to.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would be published.")]


@runs.command(epilog=example("ablatable run push runs/digits user/digits --dry-run"))
def push(
    run: RunPath,
    repository: Repository,
    private: Private = False,
    license: Annotated[str | None, typer.Option(help="License of the weights, such as apache-2.0.")] = None,
    images: Annotated[bool, typer.Option(help="Publish the training images too.")] = True,
    picture: Annotated[bool, typer.Option(help="Draw a few samples for the card.")] = True,
    revision: Revision = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub, with a model card."""
    from ..runs.publishing import published_files, push_run

    if dry_run:
        _list(repository, published_files(run, images=images, picture=picture), as_json)
        if images and not as_json:
            say("images.safetensors holds the training images; --no-images leaves them out")
        return
    address = push_run(
        run, repository, private=private, license=license, images=images, picture=picture, revision=revision
    )
    _tell(repository, address, "AblatablePipeline.from_pretrained", as_json)


@universes.command("push", epilog=example("ablatable universe push u.zarr user/digits-universe --dry-run"))
def push_(
    universe_url: Annotated[str, typer.Argument(metavar="UNIVERSE", help="A universe, or a benchmark bundle.")],
    repository: Repository,
    private: Private = False,
    license: Annotated[str | None, typer.Option(help="License of a universe, such as cc-by-4.0.")] = None,
    revision: Revision = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a universe or a benchmark on the Hugging Face Hub, as a data set with a card."""
    from ..attribution.bundle import BUNDLE, bundle_files, push_benchmark
    from ..universes.publishing import published_objects, push_universe

    bundled = BUNDLE.is_at(Path(universe_url))
    if bundled and license is not None:
        raise SettingsError("a benchmark's card is its README.md; write the license there, and leave --license out")
    if dry_run:
        _list(repository, bundle_files(universe_url) if bundled else published_objects(universe_url), as_json)
        if not as_json:
            say("the training images are part of it")
        return
    if bundled:
        address = push_benchmark(universe_url, repository, private=private, revision=revision)
    else:
        address = push_universe(universe_url, repository, private=private, license=license, revision=revision)
    _tell(repository, address, "fetch_benchmark" if bundled else "fetch_universe", as_json)


def _list(repository: str, sizes: Mapping[str, int | None], as_json: bool) -> None:
    if as_json:
        print_json({"repository": repository, "bytes": sizes})
        return
    rows = [(name, "made now" if size is None else f"{size / 2**10:,.1f} KiB") for name, size in sizes.items()]
    print_rows(["file", "size"], rows, title=repository)


def _tell(repository: str, address: str, how: str, as_json: bool) -> None:
    if as_json:
        print_json({"repository": repository, "commit": address})
        return
    say(f"{repository}: {address}")
    say(f'load it with ablatable.{how}("{repository}")')


@universes.command(epilog=example("ablatable universe bundle u.zarr --evaluation scores --out benchmark"))
def bundle(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")],
    evaluation: Annotated[Path | None, typer.Option(help="Put in the scores of this evaluation.")] = None,
    title: Annotated[str, typer.Option(help="Title of its card.")] = "Attribution benchmark",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a universe as a benchmark of attribution methods, which numpy and pyarrow can read."""
    from ..attribution.bundle import export_benchmark

    folder = export_benchmark(universe_url, out, evaluation=evaluation, title=title, overwrite=overwrite)
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if as_json:
        print_json({"bundle": str(folder), "files": [path.name for path in files]})
        return
    say(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB")
    next_step(f"cat {quoted(folder / 'reader.py')}")
