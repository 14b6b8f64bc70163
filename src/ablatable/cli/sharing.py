"""The commands that share results with other people: run push, universe bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Overwrite, RunPath, UniverseUrl, example, runs, universes
from .output import next_step, print_json, print_rows, quoted, say


@runs.command(epilog=example("ablatable run push runs/digits user/digits --dry-run"))
def push(
    run: RunPath,
    repository: Annotated[str, typer.Argument(help="Where on the Hugging Face Hub, as user/name.", metavar="NAME")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repository.")] = False,
    license: Annotated[str | None, typer.Option(help="License of the weights, such as apache-2.0.")] = None,
    images: Annotated[bool, typer.Option(help="Publish the training images too.")] = True,
    picture: Annotated[bool, typer.Option(help="Draw a few samples for the card.")] = True,
    revision: Annotated[str | None, typer.Option(help="The branch to commit to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be published.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub, with a model card."""
    from ..runs.publishing import published_files, push_run

    if dry_run:
        sizes = published_files(run, images=images, picture=picture)
        if as_json:
            print_json({"repository": repository, "bytes": sizes})
            return
        rows = [(name, "made now" if size is None else f"{size / 2**10:,.1f} KiB") for name, size in sizes.items()]
        print_rows(["file", "size"], rows, title=repository)
        if images:
            say("images.safetensors holds the training images; --no-images leaves them out")
        return
    address = push_run(
        run, repository, private=private, license=license, images=images, picture=picture, revision=revision
    )
    if as_json:
        print_json({"repository": repository, "commit": address})
        return
    say(f"{repository}: {address}")
    say(f'load it with ablatable.AblatablePipeline.from_pretrained("{repository}")')


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
