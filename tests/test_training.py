"""Training an ensemble: the same bytes however it is interrupted and shared out, and nothing overwritten unasked."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.files import read_json
from ablatable.errors import CodeError, SettingsError, StoreError
from ablatable.runs import ensemble_training as training
from ablatable.runs.run import Run, check_run
from calls import train_how
from prepared import Template

Fingerprints = Callable[[Path], dict[str, str]]

SCRIPT = """
import sys
import ablatable as ab
from ablatable.runs import ensemble_training as training
from ablatable.diffusion.recipe import recipe_from

training.CHECKPOINT_SECONDS, training.SAVING = 0.0, 0  # one a step: there is always something to tear
recipe = recipe_from({recipe})
ab.train(ab.Units.digits(12, size=8), ab.Code.balanced(units=12, components=6, seed=0), recipe,
         out=sys.argv[1], execution=ab.Execution(workers=int(sys.argv[2]), quiet=True))
"""

PARTS = ["settings.json", "units.parquet", "images.safetensors", "ensemble.json"]
PARTS += [
    f"components/{k:02d}/{name}"
    for k in range(6)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "training.json")
]


@pytest.fixture(scope="module")
def expected(small, fingerprints: Fingerprints) -> dict[str, str]:
    files = fingerprints(small.run.path)
    assert sorted(files) == sorted(PARTS)
    return files


def train(small, out: Path, **options) -> Run:
    return ab.train(
        small.units, small.code, small.recipe, out=out, **train_how(**{"workers": 0, "quiet": True, **options})
    )


def copied(small, to: Path) -> Path:
    return shutil.copytree(small.run.path, to)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def written(out: Path) -> set[tuple[str, int]]:
    """Checkpoints and when they were written."""
    found = set()
    for path in out.glob("components/*.partial/checkpoint"):
        with contextlib.suppress(FileNotFoundError):  # its component was finished meanwhile
            found.add((str(path), path.stat().st_mtime_ns))
    return found


# --- interrupted and shared out ---


def kill_it_all(template: Template, small, out: Path, writes: int, workers: int) -> None:
    """Start training in a process of its own; after so many checkpoints kill -9 it, its workers following."""
    script = SCRIPT.format(recipe=repr(small.recipe.model_dump(mode="json")))
    before, seen = written(out), set()
    process = template.start(script, out, str(workers), start_new_session=True)
    parent = psutil.Process(process.pid)

    def far_enough() -> bool:
        seen.update(written(out) - before)
        return len(seen) >= writes or not alive(parent)

    try:
        wait_for(far_enough, "checkpoints")
        workers = parent.children() if alive(parent) else []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers), "the workers to die with their parent")


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_and_gone_on_with(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints, template: Template
) -> None:
    out = tmp_path / "run"
    kill_it_all(template, small, out, random.randint(1, 60), workers=1)  # of 240
    with pytest.raises(StoreError, match=r"unfinished run: \d of 6 components .* repeat `ablatable.train"):
        Run(out)
    train(small, out)
    assert fingerprints(out) == expected
    assert check_run(out) == []


@pytest.mark.slow
@pytest.mark.parametrize("round", range(8))
def test_killed_many_times(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints, template: Template, round: int
) -> None:
    for _ in range(3):
        if (tmp_path / "ensemble.json").exists():
            break
        kill_it_all(template, small, tmp_path, random.randint(1, 80), workers=2)
    train(small, tmp_path)
    assert fingerprints(tmp_path) == expected


def test_a_killed_worker_is_replaced(
    small,
    tmp_path: Path,
    expected: dict[str, str],
    fingerprints: Fingerprints,
    monkeypatch: pytest.MonkeyPatch,
    template: Template,
) -> None:
    """And two workers make the bytes that one process makes."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVING", 0)
    starts = template.pid
    out, before, killed = tmp_path / "run", set(psutil.Process(starts).children()), []

    def kill() -> None:
        wait_for(lambda: written(out), "a checkpoint")
        time.sleep(random.uniform(0, 0.2))
        victim = random.choice([child for child in psutil.Process(starts).children() if child not in before])
        victim.kill()
        killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    train(small, out, workers=2)
    killer.join()
    assert len(killed) == 1
    assert fingerprints(out) == expected


def test_a_finished_component_is_not_trained_again(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints
) -> None:
    out = copied(small, tmp_path / "run")

    def times() -> dict[str, int]:
        return {name: (out / name).stat().st_mtime_ns for name in expected if (out / name).exists()}

    before = times()
    train(small, out)
    assert times() == before  # nothing at all was done

    (out / "ensemble.json").unlink()
    shutil.rmtree(out / "components" / "04")
    train(small, out)
    anew = {name for name, when in times().items() if when != before[name]}
    assert anew == {"ensemble.json"} | {name for name in PARTS if name.startswith("components/04")}
    assert fingerprints(out) == expected


@pytest.mark.parametrize("lost", [["units.parquet"], ["images.safetensors"], ["units.parquet", "ensemble.json"]])
def test_tables_are_written_again(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints, lost: list[str]
) -> None:
    """What a killed --overwrite, which removes settings.json last, may leave."""
    out = copied(small, tmp_path / "run")
    for name in lost:
        (out / name).unlink()
    train(small, out)
    assert fingerprints(out) == expected


def test_what_killed_writes_left_does_no_harm(small, tmp_path: Path, fingerprints: Fingerprints) -> None:
    """Killed while its settings or its tables were written, it must not be taken for a folder of others'."""
    whole, out, recipe = tmp_path / "whole", tmp_path / "run", ab.preset("ideal")
    ab.train(small.units, small.code, recipe, out=whole, execution=Execution(workers=0, quiet=True))
    for stage in ("settings.json", "units.parquet"):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / ".lock").touch()
        (out / f".{stage}.99.partial").write_bytes(b"half of it")
        if stage != "settings.json":
            shutil.copy(whole / "settings.json", out)
        ab.train(small.units, small.code, recipe, out=out, execution=Execution(workers=0, quiet=True))
        assert fingerprints(out) == fingerprints(whole)
        assert not list(out.rglob("*.partial"))


# --- settings, locks, overwriting ---


def test_other_settings_are_named(small, tmp_path: Path) -> None:
    out = copied(small, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(SettingsError, match=r"seed: 0 there, 3 asked for.*overwrite=True"):
        train(small, out, seed=3)
    with pytest.raises(SettingsError, match=r"training\.steps: 40 there, 41 asked for"):
        ab.train(
            small.units, small.code, small.recipe.replace(steps=41), out=out, execution=Execution(workers=0, quiet=True)
        )
    with pytest.raises(SettingsError, match=r"code_sha256: \w{64} there, \w{64} asked for"):
        ab.train(
            small.units,
            ab.Code.balanced(12, 6, seed=1),
            small.recipe,
            out=out,
            execution=Execution(workers=0, quiet=True),
        )
    renamed = ab.Units(tuple(f"u{k}" for k in range(12)), small.units.images, small.units.owner)
    with pytest.raises(SettingsError, match=r"units_sha256: \w{64} there, \w{64} asked for"):
        ab.train(renamed, small.code, small.recipe, out=out, execution=Execution(workers=0, quiet=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of `tmp_path / "run"`."""
    script = (
        "import sys; from ablatable._runtime.lock import exclusive\n"
        "with exclusive(sys.argv[1], 'run'): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_writer_at_a_time(small, tmp_path: Path, holder: subprocess.Popen) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoreError, match=rf"the run {out} is being written by process {holder.pid} on .*since 20"):
        train(small, out)
    assert {path.name for path in out.iterdir()} == {".lock", ".lock.json"}
    holder.kill()  # without a chance to clean up
    holder.wait()
    recipe = ab.preset("ideal")
    assert (
        ab.train(small.units, small.code, recipe, out=out, execution=Execution(workers=0, quiet=True)).recipe == recipe
    )


def test_nothing_is_overwritten_unasked(small, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(SettingsError, match=r"other files and no run.*chapter\.txt"):
            train(small, thesis, overwrite=overwrite)
        assert (thesis / "chapter.txt").read_text() == "years of work"
    with pytest.raises(SettingsError, match="is a file"):
        train(small, thesis / "chapter.txt")


def test_overwrite_starts_anew(small, tmp_path: Path, fingerprints: Fingerprints) -> None:
    out, ideal = copied(small, tmp_path / "run"), ab.preset("ideal")
    ab.train(small.units, small.code, ideal, out=out, execution=Execution(workers=0, quiet=True), overwrite=True)
    run = ab.train(small.units, small.code, ideal, out=tmp_path / "fresh", execution=Execution(workers=0, quiet=True))
    assert run.recipe == ideal
    assert fingerprints(out) == fingerprints(run.path)


def test_an_interrupted_overwrite(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprints: Fingerprints
) -> None:
    """However far it came, the folder is never taken for a complete run, and the same command goes on."""

    def start(out: Path, **options) -> Run:
        recipe = ab.preset("ideal")
        return ab.train(small.units, small.code, recipe, out=out, execution=Execution(workers=0, quiet=True), **options)

    expected = fingerprints(start(tmp_path / "whole").path)
    for stop in range(1, 30):
        out, removed = start(tmp_path / str(stop)).path, []

        class Killed(BaseException):
            pass

        def remove(path: Path, original=Path.unlink, stop=stop, removed=removed, **options) -> None:
            removed.append(path)
            if len(removed) == stop:
                raise Killed
            original(path, **options)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "unlink", remove)
            start(out, overwrite=True)
        if stop > 1:  # the first to go is what makes it complete
            with pytest.raises(StoreError):
                Run(out)
        left = {path.name for path in out.iterdir()} - {".lock", "log.jsonl"}
        start(out, overwrite=stop % 2 == 0)  # with or without it, as the tables that are gone are written again
        assert fingerprints(out) == expected
        if left == {"settings.json"}:
            return
    pytest.fail("it never came to the last file")


def test_impossible_requests(small, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="12 units but 11 codewords"):
        ab.train(
            small.units, small.code.select(range(11)), small.recipe, out=tmp_path / "a", execution=Execution(quiet=True)
        )
    lopsided = np.zeros((12, 3), bool)
    lopsided[:, 0] = True
    with pytest.raises(SettingsError, match="component 1 would train on nothing"):
        ab.train(small.units, ab.Code(lopsided), small.recipe, out=tmp_path / "a", execution=Execution(quiet=True))
    assert not (tmp_path / "a").exists()


# --- reading ---


def test_a_run_is_opened_as_a_universe_is_and_says_what_it_is(small) -> None:
    run = Run.open(small.run.path)
    assert run.digest == small.run.digest
    assert repr(run) == f"Run('{small.run.path}': 12 units, 6 of 6 components, unet)"
    shown = run._repr_html_()
    assert "<td>6 of 6</td>" in shown and "8 x 8, grey" in shown and run.digest[:16] in shown


def test_a_presets_name_is_a_recipe(small, tmp_path: Path) -> None:
    run = ab.train(small.units, small.code, "ideal", out=tmp_path / "run", execution=Execution(0, quiet=True))
    assert run.recipe == ab.preset("ideal")
    with pytest.raises(SettingsError, match="no preset 'tinny'"):
        ab.train(small.units, small.code, "tinny", out=tmp_path / "other", execution=Execution(0, quiet=True))


def test_a_run_tells_what_it_was_made_from(small) -> None:
    run = Run(small.run.path)
    assert run.unit_ids == small.units.ids
    assert run.digests == small.units.digests
    assert run.code == small.code
    assert run.recipe == small.recipe
    assert run.shape == (1, 8, 8)
    np.testing.assert_array_equal(run.units().images, small.units.images)
    for index in range(6):
        told = read_json(run.component_folder(index) / "training.json")
        split = [unit for row, unit in enumerate(small.units.ids) if small.code.matrix[row, index]]
        assert told["units"] == {unit: small.units.digest(unit) for unit in split}
        assert told["component"] == index
    assert check_run(small.run.path) == []


@pytest.mark.parametrize("name", PARTS)
def test_damage_is_found(small, tmp_path: Path, name: str) -> None:
    out = copied(small, tmp_path / "run")
    content = (out / name).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damage in (bytes(flipped), content[:-1], content + b" ", b""):
        (out / name).write_bytes(damage)
        wrong = check_run(out)
        assert any(name in sentence for sentence in wrong) or (wrong and name == "ensemble.json"), damage[:20]
    (out / name).unlink()
    assert check_run(out)
    (out / name).write_bytes(content)
    assert check_run(out) == []


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "config.json"])
def test_a_damaged_component_is_not_used_and_can_be_had_again(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints, name: str
) -> None:
    out = copied(small, tmp_path / "run")
    damaged = out / "components" / "02" / name
    flip(damaged, damaged.read_bytes().find(b'"norm_eps": 1') + 12)  # still JSON, and another network
    run = Run(out)
    run.load_component(1)
    with pytest.raises(StoreError, match=rf"{damaged} is missing or damaged; delete .*repeat .ablatable.train"):
        run.load_component(2)
    with pytest.raises(StoreError):
        run.ensemble()
    shutil.rmtree(damaged.parent)  # as the message says
    (out / "ensemble.json").unlink()
    train(small, out)
    assert fingerprints(out) == expected


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "training.json"])
def test_no_manifest_vouches_for_a_damaged_component(
    small, tmp_path: Path, expected: dict[str, str], fingerprints: Fingerprints, name: str
) -> None:
    """Damaged after it was trained and before the run was complete: it is trained again."""
    out = copied(small, tmp_path / "run")
    (out / "ensemble.json").unlink()
    flip(out / "components" / "02" / name, 0)
    (out / "components" / "03" / name).unlink()
    train(small, out)
    assert fingerprints(out) == expected


def test_a_unit_that_no_component_sees(small, tmp_path: Path) -> None:
    """A negative control: allowed on request, so what it leads to must open."""
    matrix = small.code.matrix.copy()
    matrix[4] = False
    code = ab.Code(matrix, allow_dummy=True)
    run = ab.train(
        small.units, code, ab.preset("ideal"), out=tmp_path / "run", execution=Execution(workers=0, quiet=True)
    )
    assert run.code == code
    assert run.survivors([small.units.ids[4]]).all()
    universe = ab.enumerate_universe(
        run.path, [0], out=tmp_path / "u", sampling=Sampling(steps=3), execution=Execution(workers=0, quiet=True)
    )
    np.testing.assert_array_equal(universe.counterfactual(small.units.ids[4]), universe.factual)
    assert universe.distances()[4] == 0


def test_no_survivor(small) -> None:
    with pytest.raises(CodeError, match="no component survives"):
        small.run.survivors(small.units.ids)
