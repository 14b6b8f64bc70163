"""Runs on the Hugging Face Hub: publish one with its card, fetch one, or only what draws without some units.

A published run is its folder, file by file, with a card (README.md) and a picture. So it is a run wherever it is
fetched to, and its hashes can be checked there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._runtime.devices import one_thread
from .._runtime.files import write_atomic
from .._runtime.hub import fetch, publish, repository
from .._runtime.plotting import contact_sheet, png
from ..diffusion.sampling_settings import Sampling
from ..errors import StoreError
from .card import model_card
from .conditioning import given_of, some_conditions
from .run import Run, as_run
from .shared import FOLDER

TABLES = ("settings.json", "ensemble.json", "units.parquet", "certificate.json")
IMAGES = "images.safetensors"
PICTURE, SAMPLES = "samples.png", 8
DRAWN = Sampling(steps=25)
LEFT_OUT = {"log.jsonl", "first_look.png", "first_look.json", "loss.png"}  # of the machine that trained


def fetch_run(name: str, *, revision: str | None = None, without: Sequence[str] = (), images: bool = False) -> Run:
    """A run on the Hub, in the user's cache: its tables, and the components that survive without some units.

    Args:
        name: `user/name`.
        revision: a branch, tag or commit; None = the main branch.
        without: units whose components are not wanted; they are not even fetched.
        images: fetch the training images too, for what looks at them (reports, the witness test, repairs).

    Raises:
        StoreError: no such repository or revision, no connection, or the repository is no run.
        DataError, CodeError: as `Run.survivors`.
    """
    wanted = [*TABLES, *([IMAGES] if images else [])]
    folder = fetch(name, wanted, revision=revision)
    if not (folder / "ensemble.json").is_file():
        raise StoreError(f"'{name}' on the Hub is no run of ablatable: it has no ensemble.json")
    run = Run(folder)
    numbers = [run.present[index] for index in np.flatnonzero(run.survivors(without))]
    parts = [f"{FOLDER}/{part.name}/*" for part in run.shared.records]
    # the commit, so that tables and weights belong together whatever is published meanwhile
    fetch(name, [*wanted, *(f"components/{number:02d}/*" for number in numbers), *parts], revision=folder.name)
    return run


def push_run(
    run: str | Path | Run,
    name: str,
    *,
    private: bool = False,
    license: str | None = None,
    images: bool = True,
    picture: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Publish a run",
) -> str:
    """Publish a run on the Hub with a model card.

    Args:
        run: a complete run.
        name: `user/name`; the repository is made if it is not there.
        private: make it a private repository.
        license: of the weights, as the Hub writes it (`apache-2.0`).
        images: publish the training images too. Without them others can draw and remove units, and cannot make
            reports, repair the run or check its images.
        picture: draw a few samples for the card.
        revision: the branch to commit to.
        token: None = the one that the Hub's own tools use.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        StoreError: no connection, no token, or no permission.
        SettingsError: `name` is not of the form user/name.
    """
    name, opened = repository(name), as_run(run)
    with tempfile.TemporaryDirectory(prefix="ablatable-push-") as place:
        folder = prepare(opened, Path(place) / "run", name, license=license, images=images, picture=picture)
        return publish(folder, name, private=private, message=message, revision=revision, token=token)


def published_files(run: str | Path | Run, *, images: bool = True, picture: bool = True) -> dict[str, int | None]:
    """What `push_run` would publish: the files and their sizes in bytes, None for those that it makes."""
    path = as_run(run).path
    found = {
        file.relative_to(path).as_posix(): file.stat().st_size
        for file in sorted(path.rglob("*"))
        if file.is_file() and not _left_out(images, file.relative_to(path).parts)
    }
    return {"README.md": None, **({PICTURE: None} if picture else {}), **found}


def _left_out(images: bool, names: Sequence[str]) -> set[str]:
    return {each for each in names if each.startswith(".") or each in LEFT_OUT or (each == IMAGES and not images)}


def prepare(run: Run, folder: Path, name: str, *, license: str | None, images: bool, picture: bool) -> Path:
    """What is published of a run, as a new folder: links to its files where the file system has them, else copies."""
    shutil.copytree(run.path, folder, ignore=lambda _, names: _left_out(images, names), copy_function=_link)
    if picture:
        write_atomic(folder / PICTURE, png(_samples(run)))
    card = model_card(run, name, license=license, picture=PICTURE if picture else None, images=images)
    write_atomic(folder / "README.md", card.encode())
    return folder


def _samples(run: Run) -> np.ndarray:
    """A row of factual samples."""
    import torch

    from ..data.units import to_images
    from ..diffusion.sampling import Trajectories, sample

    with one_thread(), torch.inference_mode():
        noise, schedule = Trajectories(range(SAMPLES), run.noise_shape), run.recipe.schedule
        ensemble = run.ensemble().under(given_of(run, some_conditions(run, SAMPLES), SAMPLES, DRAWN.guidance))
        drawn = sample(ensemble, noise, schedule=schedule, sampling=DRAWN, codec=run.codec)
        return contact_sheet(to_images(drawn))


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
