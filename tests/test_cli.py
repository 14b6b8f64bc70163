"""The command line: what it prints, its exit codes, and one clear line for every mistake."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
import typer
from PIL import Image

from ablatable.cli.common import app
from ablatable.universes.reader import Universe
from prepared import Template

Call = Callable[..., tuple[int, str, str]]
BUSY = 2.0  # seconds that a busy machine may add


def one_line(result: tuple[int, str, str], code: int, *words: str) -> None:
    """The call failed with this exit code and one line that holds these words."""
    actual, _, err = result
    assert actual == code, result
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith("details: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "`" not in err and "ablatable." not in err, err  # Python's words
    for word in words:
        assert word in err, (word, err)


def picture(path: Path, side: int = 8, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)
    return path


# --- the main job ---


def test_the_whole_job(call: Call, tmp_path: Path) -> None:
    run, universe, out = tmp_path / "run", tmp_path / "u.zarr", tmp_path / "pictures"
    train = ("train", "digits:6", "--size", "8", "--components", "4", "--steps", "3", "--out", run, "--workers", "0")
    code, text, _ = call(*train, "--json")
    assert code == 0 and json.loads(text)["units"] == 6
    code, text, _ = call(
        "universe", "create", run, "--seeds", "0-1,7", "--steps", "3", "--out", universe, "--workers", "0", "--json"
    )
    assert code == 0 and json.loads(text) == {"universe": str(universe), "samples": 3, "units": 6, "ablations": 6}

    code, text, _ = call("universe", "radius", universe, "--json")
    radii = json.loads(text)
    assert code == 0 and [row["seed"] for row in radii] == [0, 1, 7]
    code, text, _ = call("universe", "influence", universe, "--sample", "2", "--json")
    table = json.loads(text)
    assert [row["rank"] for row in table] == [1, 2, 3, 4, 5, 6]
    assert table[0]["distance"] == pytest.approx(radii[2]["radius"]) and table[0]["unit"] == radii[2]["farthest_unit"]
    assert table[0]["p"] is None
    code, text, _ = call("universe", "influence", universe, "--sample", "2", "--top", "1")
    assert code == 0 and table[0]["unit"] in text and "more --components" in " ".join(text.split())

    code, text, _ = call(
        "run", "sample", run, "--seeds", "0,7", "--steps", "3", "--without", "digit-0003", "--out", out, "--json"
    )
    assert code == 0 and json.loads(text)["survivors"] == 2
    from ablatable import Universe

    expected = Universe.open(universe).counterfactual("digit-0003")
    for path, row in zip(json.loads(text)["pictures"], (0, 2), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected[row, ..., 0])
    one_line(call("run", "sample", run, "--seeds", "7", "--steps", "3", "--out", out), 2, "exists", "--overwrite")

    code, text, _ = call("report", universe, "--out", tmp_path / "report", "--run", run, "--json")
    assert code == 0 and Path(json.loads(text)["report"]).read_text().startswith("<!")
    for path in (run, universe):
        assert call("audit", "check", path)[0] == 0


def test_influence_against_spares(call: Call, small_universe: Universe) -> None:
    code, text, _ = call("universe", "influence", small_universe.url, "--sample", "1", "--json")
    ranks = [9 * row["p"] for row in json.loads(text)]  # among C(6, 3) - 12 = 8 unused codewords
    assert code == 0 and len(ranks) == 12 and np.allclose(ranks, np.round(ranks)) and max(ranks) > 4 > min(ranks)
    likeness = ("--statistic", "likeness")
    code, text, _ = call("universe", "influence", small_universe.url, "--sample", "1", *likeness, "--json")
    table = json.loads(text)
    assert code == 0 and len(table) == 12 and all(row["p"] in {0.25, 0.5, 0.75, 1} for row in table)
    code, text, _ = call("universe", "influence", small_universe.url, "--statistic", "plain", "--native")
    told = " ".join(text.split())
    # C(6, 3) = 20 words less 12 of units; one unit of 12 reaches q <= 0.1 with 119 spares; C(11, 3) = 165 >= 12 + 119
    assert code == 0 and "cannot be judged with 3 spares" in told
    assert "takes 119 spares, and this code has 8: 11 components of weight 3 do" in told
    code, text, _ = call("universe", "radius", small_universe.url, "--json")
    rows = json.loads(text)
    assert code == 0 and all(0.7999 < row["radius_p"] <= 1 for row in rows)
    one_line(call("universe", "influence", small_universe.url, "--statistic", "x"), 2, "'x'", "likeness")
    one_line(
        call("universe", "influence", small_universe.url, "--features", "x"), 2, "no features 'x'", "efficientnet-lite0"
    )


def test_plan(call: Call) -> None:
    code, text, _ = call("plan", "--units", "48", "--components", "8", "--json")
    assert code == 0 and json.loads(text)["capacity"] == 70
    code, text, _ = call("plan", "--units", "48", "--components", "8")
    assert code == 0 and "70" in text and max(map(len, text.splitlines())) <= 80
    one_line(call("plan", "--units", "100", "--components", "8"), 2, "70", "9 components")


def test_help_does_not_load_torch() -> None:
    listing = "import sys; sys.argv = ['ablatable', '--help']\nfrom ablatable.cli import main\n" + (
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'zarr', 'polars', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for command in ("demo", "plan", "train", "evaluate", "report", "universe", "run", "audit", "study"):
        assert command in done.stdout


def commands(group: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command of the command line by its words."""
    group = typer.main.get_command(app) if group is None else group
    found = {}
    for name, command in group.commands.items():
        found |= commands(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
    return found


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_help(words: tuple[str, ...], call: Call) -> None:
    """One sentence, an example of this very command whose options exist; every option is explained."""
    command = commands()[words]
    assert command.help and "\n" not in command.help.strip() and command.help.strip().endswith(".")
    options = {name: option for option in command.params for name in option.opts}
    assert all(option.help for name, option in options.items() if name.startswith("--") and name != "--help"), words
    lines = [line.strip() for line in command.epilog.splitlines() if line.strip()]
    assert lines[0] == "Example:" and len(lines) > 1
    for line in lines[1:]:
        given = line.split()
        assert given[: 1 + len(words)] == ["ablatable", *words]
        assert {word for word in given if word.startswith("--")} <= options.keys()
    code, text, _ = call(*words, "--help")
    assert code == 0 and max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<[^>]*\n", re.sub(r"\[.*?\]", "", text))  # no list of choices is broken over two lines


def test_choices_are_the_librarys() -> None:
    from ablatable.analysis.statistics import STATISTICS
    from ablatable.attribution import methods
    from ablatable.cli import choices
    from ablatable.demo import DATA
    from ablatable.diffusion.recipe import PRESETS
    from ablatable.diffusion.sampling_settings import BACKENDS, PRECISIONS, SAMPLERS

    assert get_args(choices.Sampler) == SAMPLERS and get_args(choices.Precision) == PRECISIONS
    assert get_args(choices.Backend) == BACKENDS
    assert get_args(choices.Preset) == tuple(PRESETS) and get_args(choices.Statistic) == STATISTICS
    assert get_args(choices.DemoData) == DATA
    assert set(choices.Attributors) == set(methods.METHODS)


def test_completion() -> None:
    """The shell is offered the choices of an option."""
    asked = {"_ABLATABLE_COMPLETE": "complete_bash", "COMP_WORDS": "ablatable universe create r --sampler d"}
    environment = {**os.environ, **asked, "COMP_CWORD": "5", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = "from ablatable.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["ddpm", "ddim", "dpmsolver++"], done


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("universe creat", "create"),
        ("universe create r --sampler ddpn --out u", "ddpm"),
        ("universe create r --stpes 3 --out u", "--steps"),
        ("universe influence u --statistic likenes", "likeness"),
        ("audit certificate chek", "check"),
    ],
)
def test_a_typing_mistake_gets_the_nearest_match(given: str, meant: str, call: Call) -> None:
    one_line(call(*given.split()), 2, meant, "--help")


@pytest.mark.parametrize(("number", "workers"), [("SIGINT", 1), ("SIGHUP", 1), ("SIGINT", 0)])
def test_a_stopped_command(number: str, workers: int, tmp_path: Path, template: Template) -> None:
    """It ends within two seconds with one line, leaves no worker behind, and the same command resumes."""
    out, stop = tmp_path / "run", getattr(signal, number)
    if signal.getsignal(stop) is signal.SIG_IGN:
        pytest.skip(f"{number} is ignored here, as under nohup")
    train = ["train", "digits:8", "--size", "8", "--components", "5"]
    train += ["--steps", "2000", "--workers", str(workers), "--out", str(out)]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = template.start("from ablatable.cli import main; main()", *train, stderr=stderr)
    deadline = time.monotonic() + 90
    while not list(out.glob("components/*.partial")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    workforce = psutil.Process(process.pid).children(recursive=True)
    assert len(workforce) == workers
    began = time.monotonic()
    process.send_signal(stop)
    code = process.wait(timeout=30)
    assert time.monotonic() - began < 2 + BUSY and code == 128 + stop
    err = (tmp_path / "stderr").read_text()
    lines = [line for line in err.splitlines() if "% " not in line or "stopped" in line]
    assert len(lines) == 1 and "stopped at" in lines[0] and "give the same command again to resume" in lines[0], err
    _, alive = psutil.wait_procs(workforce, timeout=2 + BUSY)
    assert not alive, alive


def test_stopped_while_images_are_read(tmp_path: Path) -> None:
    """One line, which does not promise that something was kept."""
    tile, place = picture(tmp_path / "data" / "0.png", side=4), tmp_path / "data"
    for number in range(1, 600):
        shutil.copyfile(tile, place / f"{number}.png")
    program = (
        "import os, sys, time\nfrom ablatable.data import loading\nfrom ablatable.cli import main\n"
        "read = loading._read\n"
        "loading._read = lambda *given: (time.sleep(0.02), os.write(1, b'reading\\n'), read(*given))[2]\n"
        f"sys.argv = ['ablatable', 'train', {str(place)!r}, '--no-cache', '--out', {str(tmp_path / 'run')!r}]\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], text=True, env=environment, stdout=pipe, stderr=pipe)
    assert process.stdout is not None and process.stdout.readline() == "reading\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 2 + BUSY and process.returncode == 130
    (line,) = [line for line in err.splitlines() if "stopped" in line or "% " not in line]
    assert line.startswith("reading images: stopped at ") and line.endswith(
        "nothing was written; give the command again"
    )
    assert not (tmp_path / "run").exists()


def test_stopped_while_nothing_reacts() -> None:
    """Code that holds on to the main thread, or swallows the interruption, is cut short."""
    program = (
        "import sys, time, typer\nfrom ablatable.cli.running import run_command_line\napp = typer.Typer()\n"
        "@app.command()\ndef hold():\n while True:\n"
        "  try: print('ready', flush=True); time.sleep(60)\n  except BaseException: pass\n"
        "run_command_line(app)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], text=True, env=environment, stdout=pipe, stderr=pipe)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 2 + BUSY and process.returncode == 143
    assert err == "stopped; what is finished is kept: give the same command again to resume\n"


def test_a_failure_leaves_its_traceback_in_the_log(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, err = call("universe", "radius", tmp_path / "nothing.zarr")
    error, details = err.splitlines()
    log = Path(details.removeprefix("details: "))
    assert code == 1 and error.startswith("error: ") and log.is_relative_to(tmp_path)
    assert "Traceback" in log.read_text() and "nothing.zarr" in log.read_text() and "StoreError" in log.read_text()


def test_exchange_and_evaluation(call: Call, tmp_path: Path) -> None:
    run, universe, back = tmp_path / "run", tmp_path / "u.zarr", tmp_path / "back.zarr"
    call("train", "digits:6", "--size", "8", "--components", "4", "--preset", "ideal", "--out", run, "--workers", "0")
    call("universe", "create", run, "--seeds", "0-1", "--steps", "3", "--out", universe, "--workers", "0")
    scores = tmp_path / "distance.parquet"
    code, text, _ = call("universe", "export", universe, "--ctf", tmp_path / "u.ctf", "--scores", scores, "--json")
    assert code == 0 and json.loads(text)["written"] == [str(tmp_path / "u.ctf"), str(scores)]
    one_line(call("universe", "export", universe), 2, "--ctf", "--scores")
    one_line(call("universe", "export", universe, "--ctf", tmp_path / "u.ctf"), 2, "exists", "--overwrite")
    code, text, _ = call("universe", "import", tmp_path / "u.ctf", "--out", back, "--json")
    assert code == 0 and json.loads(text)["units"] == 6
    one_line(call("universe", "import", scores, "--out", back), 2, "refused")
    assert call("universe", "radius", back, "--json")[1] == call("universe", "radius", universe, "--json")[1]
    assert call("universe", "influence", back)[0] == call("audit", "check", back)[0] == 0

    evaluate = ("evaluate", universe, "--attributor", "euclidean", "--scores", scores, "--workers", "0")
    code, text, _ = call(*evaluate, "--out", tmp_path / "e", "--json")
    rows = {(row["method"], row["metric"]): row["value"] for row in json.loads(text)["results"]}
    assert code == 0 and rows["distance", "rank_distance"] == pytest.approx(1)
    code, text, _ = call(*evaluate, "--out", tmp_path / "e")
    assert code == 0 and "euclidean" in text and "no run is given" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("next:")) <= 80
    code, text, _ = call(*evaluate, "--out", tmp_path / "g", "--samples", "1")
    assert code == 0 and "1 samples, 6 units" in " ".join(text.split())
    one_line(call(*evaluate, "--out", tmp_path / "g", "--samples", "0-1"), 2, "samples: 1 there")
    one_line(call(*evaluate, "--out", tmp_path / "f", "--samples", "0-5"), 2, "no sample 2")
    one_line(call(*evaluate, "--out", tmp_path / "f", "--samples", "a"), 2, "samples 'a': write them as 0-9")
    some = ("universe", "export", universe, "--samples", "1")
    code, text, _ = call(*some, "--ctf", tmp_path / "some.ctf", "--json")
    assert code == 0 and json.loads(text)["samples"] == 1
    one_line(call(*some, "--scores", tmp_path / "some.npy"), 2, "--samples", "--ctf")
    one_line(call(*evaluate, "--out", tmp_path / "f", "--attributor", "trak"), 2, "trak", "--run")
    one_line(call(*evaluate, "--out", tmp_path / "f", "--attributor", "neares"), 2, "neares", "euclidean")


def test_doctor(call: Call, small, tmp_path: Path) -> None:
    """It says what there is, what is missing, and whether a run's bits come out again; it sees when they do not."""
    code, text, _ = call("doctor", "--json")
    told = json.loads(text)
    assert code == 0 and told["versions"]["torch"] == importlib.metadata.version("torch")
    assert told["cores"] == len(os.sched_getaffinity(0)) and told["repetition"] is None
    for extra, packages in told["missing"].items():
        for package in packages:
            with pytest.raises(importlib.metadata.PackageNotFoundError):
                importlib.metadata.version(package)
        assert f"ablatable[{extra}]" in call("doctor")[1]
    code, text, _ = call("doctor", small.run.path)
    assert code == 0 and "makes the run's bits" in " ".join(text.split())
    run = tmp_path / "run"
    shutil.copytree(small.run.path, run)
    record = run / "components" / "00" / "training.json"
    told = json.loads(record.read_text())
    told["marks"][2][1] = told["marks"][1][1]
    record.write_text(json.dumps(told))
    code, text, _ = call("doctor", run)
    assert code == 0 and "does NOT make the run's bits" in " ".join(text.split())


def test_version(call: Call) -> None:
    code, text, _ = call("--version")
    assert code == 0
    for package in ("ablatable", "torch", "diffusers"):
        assert f"{package} {importlib.metadata.version(package)}" in text


# --- mistakes ---


def test_data_mistakes(call: Call, tmp_path: Path) -> None:
    def train(data: str | Path, *more: str) -> tuple[int, str, str]:
        return call("train", data, "--out", tmp_path / "run", "--workers", "0", *more)

    one_line(train(tmp_path / "nowhere"), 2, "nowhere")
    (tmp_path / "nothing").mkdir()
    one_line(train(tmp_path / "nothing"), 2, "nothing")

    broken = tmp_path / "broken"
    (picture(broken / "a.png").parent / "b.png").write_bytes(b"not a picture")
    one_line(train(broken), 2, "b.png")

    mixed = tmp_path / "mixed"
    picture(mixed / "a.png"), picture(mixed / "b.png", side=9)
    one_line(train(mixed), 2, "b.png", "--size")

    twice = tmp_path / "twice"
    picture(twice / "a.png"), picture(twice / "a.bmp")
    one_line(train(twice), 2, "a.png", "a.bmp")

    empty = tmp_path / "empty"
    picture(empty / "one" / "a.png")
    (empty / "two").mkdir()
    one_line(train(empty), 2, "two")

    table = tmp_path / "table"
    picture(table / "a.png")
    (table / "metadata.csv").write_text("file_name,painter\na.png,x\n")
    one_line(train(table, "--unit-column", "artist"), 2, "artist", "painter")

    np.save(tmp_path / "nan.npy", np.full((4, 8, 8), np.nan, np.float32))
    one_line(train(tmp_path / "nan.npy"), 2, "NaN")
    one_line(train("digits:100000"), 2, "256")
    assert not (tmp_path / "run").exists()


def test_setting_mistakes(call: Call, tmp_path: Path) -> None:
    def train(*more: str) -> tuple[int, str, str]:
        return call("train", "digits:6", "--size", "8", "--out", tmp_path / "run", "--workers", "0", *more)

    one_line(train("--components", "3"), 2, "3 components", "4 components")
    one_line(train("--components", "4", "--weight", "4"), 2, "weight 4")
    one_line(train("--preset", "huge"), 2, "huge", "tiny")
    one_line(train("--preset", "idael"), 2, "did you mean 'ideal'?")
    one_line(train("--steps", "0"), 2, "steps")
    one_line(train("--precision", "fp8"), 2, "precision")
    one_line(train("--device", "tpu"), 2, "tpu")
    one_line(train("--size", "large"), 2, "large")
    one_line(train("--components", "4", "--steps", "1", "--preset", "paper"), 2, "8 x 8", "--size")
    assert call("train", "digits:6")[0] == 2  # no --out
    assert call("no-such-command")[0] == 2
    assert call("plan", "--units", "many")[0] == 2


def test_other_settings_and_other_folders(call: Call, small, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small.run.path, run)
    again = ("train", "digits:12", "--size", "8", "--components", "6", "--out", run, "--workers", "0")
    one_line(call(*again, "--seed", "5"), 2, "seed", "0", "5")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    one_line(call("train", "digits:6", "--out", other, "--overwrite"), 2, "mine")
    one_line(call("universe", "create", run, "--out", other, "--overwrite", "--workers", "0"), 2, "mine")
    assert (other / "thesis.txt").read_text() == "precious"
    one_line(call("universe", "create", tmp_path / "norun", "--out", tmp_path / "u.zarr"), 1, "norun")
    one_line(call("universe", "create", run, "--seeds", "4-", "--out", tmp_path / "u.zarr"), 2, "4-")
    one_line(call("universe", "create", run, "--seeds", "1,1", "--out", tmp_path / "u.zarr"), 2, "twice")
    one_line(call("universe", "create", run, "--sampler", "euler", "--out", tmp_path / "u.zarr"), 2, "euler", "ddim")
    one_line(call("universe", "create", run, "--steps", "1001", "--out", tmp_path / "u.zarr"), 2, "1001")
    one_line(call("universe", "create", run, "--spares", "100", "--out", tmp_path / "u.zarr"), 2, "100")
    one_line(call("run", "sample", run, "--without", "digit-00003", "--out", tmp_path / "p"), 2, "digit-0003")
    everything = [part for unit in small.units.ids for part in ("--without", unit)]
    one_line(call("run", "sample", run, *everything, "--out", tmp_path / "p"), 2, "no component survives")
    one_line(call("universe", "radius", tmp_path / "nothing.zarr"), 1, "nothing.zarr")
    one_line(call("audit", "check", tmp_path / "nothing"), 2, "nothing")
    one_line(call("audit", "check", other), 2, "neither")


def test_damage(call: Call, small, small_universe, tmp_path: Path) -> None:
    run, universe = tmp_path / "run", tmp_path / "u.zarr"
    shutil.copytree(small.run.path, run)
    shutil.copytree(small_universe.url, universe)
    one_line(call("universe", "influence", universe, "--sample", "3"), 2, "sample 3", "0 to 2")
    weights = run / "components" / "02" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    code, text, _ = call("audit", "check", run, "--json")
    assert code == 1 and any(str(weights) in line for line in json.loads(text)["wrong"])
    one_line(call("run", "sample", run, "--out", tmp_path / "p"), 1, "02", "damaged")
    block = next(path for path in (universe / "counterfactual" / "c").rglob("*") if path.is_file())
    block.write_bytes(block.read_bytes()[:-5])
    code, text, _ = call("audit", "check", universe)
    assert code == 1 and "block" in text
    for name in ("index", "factual.0000000"):
        (universe / "done" / f"{name}.json").unlink()
    one_line(call("universe", "radius", universe), 1, "unfinished")


def test_p_values_never_read_as_smaller_than_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from ablatable.cli.output import print_rows

    print_rows(["unit", "score", "p", "radius p"], [("a", 0.123, 1 / 73, 0.0501), ("b", 1.0, 0.05, None)], title="t")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][2:]
    assert rows == [["a", "0.12", "0.014", "0.051"], ["b", "1.00", "0.050", "-"]]


@pytest.mark.parametrize("given", ["Sina", "schulz", "Sina Schultz"])
def test_a_part_of_a_name_is_enough_to_be_told_the_whole(given: str) -> None:
    import ablatable as ab

    with pytest.raises(ab.AblatableError, match=f"no unit '{given}' .*; did you mean Sina Schulz\\?$"):
        ab.bundled().rows([given])
