"""No command changes or deletes a file that is not its own, whatever it is asked to write and wherever.

Every command with an option that says where to write is found in the command line itself and tried on folders of
foreign files, with and without --overwrite. A command or a required argument that is not known here fails the test.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner

import ablatable.cli  # noqa: F401  (commands register)
from ablatable import Execution, Sampling, Universe, enumerate_universe
from ablatable._runtime.outputs import check_folder
from ablatable.attribution.evaluation import evaluate
from ablatable.cli.common import app
from ablatable.errors import SettingsError
from ablatable.report import REPORT, write_report
from ablatable.runs.run import RUN, Run
from ablatable.universes.ctf import export_ctf

if TYPE_CHECKING:
    from conftest import Small

WRITES = {"out", "ctf", "scores", "proofs"}  # options that say where a command writes
READS = {("evaluate", "scores")}  # and one of the same name that does not

# a name of every format's, with what another program may keep under it
FOREIGN = {
    "cat.png": b"not read by anyone",
    "notes.txt": b"mine",
    "story.png": b"mine",
    "summary.csv": b"a,b\n1,2\n",
    "report.html": b"<title>my report</title>",
    "report.json": b"{}",
    "landscape-0.png": b"mine",
    "settings.json": b"{}",
    "ensemble.json": b"{}",
    "units.parquet": b"mine",
    "images.safetensors": b"mine",
    "training.safetensors": b"mine",
    "log.jsonl": b"mine",
    "screen.json": b"{}",
    "zarr.json": b"{}",
    "evaluation.json": b"{}",
    "results.csv": b"mine",
    "control.json": b"{}",
    "study.json": b"{}",
    "samples.json": b"[]",
    "sample-00000.png": b"mine",
    "certificate.json": b"{}",
    "table.csv": b"mine",
    ".lock": b"mine",
    ".lock.json": b'{"locked": true}',
    ".photo.12.partial": b"mine",
    "photo#1": b"mine",
    "components/00/config.json": b"{}",
    "samples/0.bin": b"mine",
    "run/settings.json": b"{}",
    "universe.zarr/zarr.json": b"{}",
    "done/factual.0000000.json": b"mine",
    "scores/random.parquet": b"mine",
    "deep/er/cat.jpg": b"mine",
    "archive.tar": b"mine",
    "data/manifest.json": b"{}",
    "index.html": b"mine",
    "scores.parquet": b"mine",
    "scores.npy": b"mine",
    "scores.json": b"{}",
    "key.pem": b"mine",
}
FOLDERS = {
    "everything": list(FOREIGN),
    "pictures": ["cat.png", "deep/er/cat.jpg"],
    "tables": ["units.parquet", "images.safetensors"],
    "hidden": [".photo.12.partial"],
    "lock": [".lock"],
    "holder": [".lock.json"],
    "partial object": ["photo#1"],
    "samples": ["sample-00000.png"],
    "nested": ["run/settings.json"],
    "site": ["data/manifest.json", "index.html"],
}
FILES = {
    "ctf": ["archive.tar"],
    "scores": ["scores.parquet", "scores.npy"],
    "proofs": ["scores.json"],
    "out": ["key.pem"],
}


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    group = group or typer.main.get_command(app)  # pyright: ignore[reportAssignmentType]
    for name, command in group.commands.items():  # pyright: ignore[reportOptionalMemberAccess]
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))  # pyright: ignore[reportArgumentType]
        else:
            yield (*path, name), command


WRITERS: list[Any] = [
    pytest.param(path, command, str(parameter.name), id="-".join((*path, str(parameter.name))))
    for path, command in commands()
    for parameter in command.params
    if parameter.name in WRITES and (path[-1], parameter.name) not in READS
]


@pytest.fixture(scope="module")
def given(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What required arguments are given, by name."""
    folder = tmp_path_factory.mktemp("given")
    universe = enumerate_universe(
        small.run.path, [0], out=folder / "u.zarr", sampling=Sampling(steps=2), execution=Execution(0, quiet=True)
    )
    export_ctf(universe, folder / "u.tar", quiet=True)
    (folder / "more").mkdir()
    for number in range(2):
        Image.fromarray(np.full((8, 8), 90 * number, np.uint8)).save(folder / "more" / f"{number}.png")
    return {
        "run": str(small.run.path),
        "universe_url": universe.url,
        "universe": universe.url,
        "data": "digits:12",
        "more": str(folder / "more"),
        "unit": small.units.ids[0],
        "archive": str(folder / "u.tar"),
        "file": str(folder / "u.tar"),
        "folders": str(adoptable(folder / "model")),
        "splits": str(folder / "saw.csv"),
    }


def adoptable(folder: Path) -> Path:
    """A model of diffusers, and beside it a table of who saw what."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    model = UNet2DModel(
        8, 1, 1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4, add_attention=False, **blocks
    )
    model.save_pretrained(folder)
    DDPMScheduler().save_pretrained(folder)
    (folder.parent / "saw.csv").write_text("unit,codeword\n" + "".join(f"digit-{k:04d},1\n" for k in range(12)))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def foreign(folder: Path, names: list[str]) -> Path:
    """A folder of files that no command of ours wrote."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(FOREIGN[name])
    return folder


def call(path: tuple[str, ...], command: click.Command, option: str, value: Path, given: dict[str, str]) -> list[str]:
    """The words of a call that writes to `value`."""
    words = list(path)
    given = {**given, "data": given["more"]} if path[-1] == "extend" else given
    for parameter in command.params:
        if parameter.required and parameter.name != option:
            assert parameter.name in given, f"{' '.join(path)} needs {parameter.name}: say in `given` what to give it"
            flag = [parameter.opts[0]] if parameter.param_type_name == "option" else []
            words += [*flag, given[str(parameter.name)]]
    optional = {"verify": ["--unit", given["unit"]], "screen": ["--share", "1"]}.get(path[-1], [])
    flag = next(parameter.opts[0] for parameter in command.params if parameter.name == option)
    return [*words, *optional, flag, str(value)]


@pytest.mark.parametrize(("path", "command", "option"), WRITERS)
def test_foreign_files_stay_and_nothing_joins_them(
    path: tuple[str, ...], command: click.Command, option: str, given: dict[str, str], tmp_path: Path
) -> None:
    overwrites = any(parameter.name == "overwrite" for parameter in command.params)
    one_file = option != "out" or path[-1] == "key"
    for number, names in enumerate(FOLDERS.values()):
        folder = foreign(tmp_path / str(number), names)
        before = snapshot(folder)
        targets = [folder]
        if one_file:
            targets += [folder / name for name in FILES[option] if name in names]
        for target in targets:
            words = call(path, command, option, target, given)
            for extra in [[], ["--overwrite"]] if overwrites else [[]]:
                result = CliRunner().invoke(app, [*words, *extra])
                assert result.exit_code != 0, (words, extra, result.output)
                # and for that reason, which shows by the place in the message
                assert isinstance(result.exception, SettingsError), (words, result.exception)
                assert str(folder) in str(result.exception), (words, result.exception)
                assert snapshot(folder) == before, (words, extra)


@pytest.mark.parametrize(("path", "command", "option"), WRITERS)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    path: tuple[str, ...],
    command: click.Command,
    option: str,
    given: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_work(*args: object, **options: object) -> None:
        raise AssertionError("work began before the place was looked at")

    for name in ("universes.drawing.draw", "runs.component_training.train_component", "runs.pipeline.sample"):
        monkeypatch.setattr(f"ablatable.{name}", no_work)
    (tmp_path / "file").write_bytes(b"mine")
    ending = {"ctf": "x.tar", "scores": "x.parquet", "proofs": "x.json"}.get(
        option, "x.pem" if path[-1] == "key" else "x"
    )
    result = CliRunner().invoke(app, call(path, command, option, tmp_path / "file" / ending, given))
    assert result.exit_code != 0
    assert not isinstance(result.exception, AssertionError), result.exception
    assert "what is finished is kept" not in str(result.exception)
    assert snapshot(tmp_path) == {"file": hashlib.sha256(b"mine").hexdigest()}


def test_a_writers_test_knows_the_commands_that_write() -> None:
    """The search above finds what it is to find."""
    found = {(str(values[0][-1]), values[2]) for values in (parameter.values for parameter in WRITERS)}
    expected = {"train", "sample", "report", "evaluate", "forget", "repair", "extend", "demo", "import", "key"}
    assert {(name, "out") for name in expected} <= found
    assert {("export", "ctf"), ("export", "scores")} <= found


# --- overwriting what is ours ------------------------------------------------------------------------------------


def add(folder: Path) -> dict[str, bytes]:
    """Foreign files in a folder of ours."""
    mine = {"notes.txt": b"mine", "photos/cat.png": b"mine", ".hidden": b"mine", "components.txt": b"mine"}
    for name, content in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return mine


def held(folder: Path, mine: dict[str, bytes]) -> bool:
    return all((folder / name).read_bytes() == content for name, content in mine.items())


def test_overwriting_a_run_deletes_the_runs_files_and_no_other(small: Small, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run.path, tmp_path / "run"))
    mine = add(run)
    (run / ".ensemble.json.77.partial").write_bytes(b"left by a killed writer")
    result = CliRunner().invoke(
        app,
        ["train", "digits:8", "--size", "8", "--preset", "ideal", "--out", str(run), "--overwrite", "--workers", "0"],
    )
    assert result.exit_code == 0, result.output
    assert held(run, mine)
    assert len(Run(run).unit_ids) == 8
    assert not (run / ".ensemble.json.77.partial").exists()
    assert not list(run.rglob("diffusion_pytorch_model.safetensors")), "weights of the old run"


def test_a_foreign_file_where_a_component_has_to_go_stops_the_overwriting(small: Small, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run.path, tmp_path / "run"))
    (run / "components" / "00" / "notes.txt").write_bytes(b"mine")
    before = snapshot(run)
    result = CliRunner().invoke(app, ["train", "digits:8", "--preset", "ideal", "--out", str(run), "--overwrite"])
    assert "components/00/notes.txt" in str(result.exception)
    assert {name: digest for name, digest in snapshot(run).items() if name != ".lock"} == {
        name: digest for name, digest in before.items() if name != ".lock"
    }


def test_overwriting_a_universe_a_report_and_an_evaluation(small: Small, given: dict[str, str], tmp_path: Path) -> None:
    quiet = Execution(0, quiet=True)
    out = tmp_path / "u.zarr"
    shutil.copytree(given["universe_url"], out)
    mine = add(out)
    again = enumerate_universe(
        small.run.path, [5], out=out, sampling=Sampling(steps=3), execution=quiet, overwrite=True
    )
    assert (again.seeds, held(out, mine)) == ((5,), True)
    (out / "done" / "mine.txt").write_bytes(b"mine")
    before = snapshot(out)
    with pytest.raises(SettingsError, match=r"done/mine\.txt"):
        enumerate_universe(small.run.path, [6], out=out, sampling=Sampling(steps=3), execution=quiet, overwrite=True)
    assert snapshot(out) == before

    universe = Universe.open(given["universe_url"])
    page = write_report(universe, tmp_path / "report")
    mine = add(page.parent)
    (page.parent / "landscape-7.png").write_bytes(b"of a larger report")
    write_report(universe, page.parent, overwrite=True)
    assert held(page.parent, mine)
    assert not (page.parent / "landscape-7.png").exists()

    evaluate(universe, ["random"], out=tmp_path / "scores", execution=quiet)
    mine = add(tmp_path / "scores")
    evaluate(universe, ["euclidean"], out=tmp_path / "scores", execution=quiet, overwrite=True)
    assert held(tmp_path / "scores", mine)
    assert not (tmp_path / "scores" / "scores" / "random.parquet").exists()


def test_an_unfinished_report_is_taken_up_again(given: dict[str, str], tmp_path: Path) -> None:
    page = write_report(Universe.open(given["universe_url"]), tmp_path / "report")
    page.unlink()
    assert write_report(Universe.open(given["universe_url"]), tmp_path / "report").exists()


def test_what_file_managers_and_locks_leave_is_no_file(tmp_path: Path) -> None:
    for name, content in {".DS_Store": b"x", "Thumbs.db": b"x", ".lock": b""}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".lock.json").write_text(json.dumps({"pid": 1, "host": "a", "since": "b"}))
    check_folder(tmp_path, RUN)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = foreign(tmp_path / "outside", ["cat.png"])
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "link").symlink_to(outside)
    with pytest.raises(SettingsError, match="link"):
        check_folder(tmp_path / "report", REPORT)


def test_training_data_given_as_a_report_folder_stays_training_data(given: dict[str, str], tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    before = snapshot(tmp_path)
    with pytest.raises(SettingsError, match=r"0\.png|1\.png|2\.png"):
        write_report(Universe.open(given["universe_url"]), tmp_path, overwrite=True)
    assert snapshot(tmp_path) == before
