"""What every test gets: one thread, no model hub, no clock in the verdicts, a browser if there is one."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from ablatable import Execution, Sampling
from prepared import Child, Template

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route, WebSocketRoute

    from ablatable.codes.code import Code
    from ablatable.data.units import Units
    from ablatable.diffusion.recipe import Recipe
    from ablatable.runs.run import Run
    from ablatable.universes.reader import Universe

# Set here, before any test module imports torch, and inherited by every process that a test starts: the suite
# itself runs as several processes, and threads that wait for a busy core slow all of them down.
os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
)
# Bytecode is kept even where the environment says not to: tests start many processes, and each would compile again
# what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "torch" in sys.modules:  # a plugin was quicker: too late for the variable
    sys.modules["torch"].set_num_threads(1)

# A loaded machine must not fail a test, so hypothesis gets no deadline. Under CI the same examples are tried
# every time; elsewhere new ones.
settings.register_profile(
    "house",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")

CHROMIUM_NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, Chromium starts in no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOCAL_SCHEMES = ("file", "data", "blob", "about")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever draws a page is a browser test, marked or not."""
    for item in items:
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def find_chromium() -> str | None:
    """Path of a Chromium: what the variable CHROMIUM names (an error when it is not there), or one found."""
    named = os.environ.get("CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            pytest.fail(f"CHROMIUM={named} is not an executable: name a Chromium, or unset it", pytrace=False)
        return found
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


# One browser a module, not a session: playwright's event loop lives as long as its browser, and no other test
# may find a running loop in its thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one, the test is skipped."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("needs chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        try:
            yield chromium
        finally:
            chromium.close()


@pytest.fixture
def browser_with_gpu(browser: Browser) -> Iterator[Browser]:
    """Another Chromium, whose WebGPU is computed on the processor: slow, and with true results."""
    pretended = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader")
    flags = [flag for flag in CHROMIUM_FLAGS if flag != "--disable-gpu"]
    flags += [*pretended, "--enable-features=Vulkan", "--disable-vulkan-surface"]
    chromium = browser.browser_type.launch(executable_path=find_chromium(), args=flags)
    try:
        yield chromium
    finally:
        chromium.close()


@pytest.fixture
def network_requests() -> list[str]:
    """Addresses off the disk that `page` asked for, in order; each was refused. Empty: it used no network."""
    return []


@pytest.fixture
def page(browser: Browser, network_requests: list[str]) -> Iterator[Page]:
    """A fresh browser page, 1280 x 800, that can read files and nothing else; see `network_requests`."""

    def decide(route: Route) -> None:
        if urlsplit(route.request.url).scheme in LOCAL_SCHEMES:
            route.continue_()
        else:
            network_requests.append(route.request.url)
            route.abort()

    def refuse(socket: WebSocketRoute) -> None:
        network_requests.append(socket.url)
        socket.close()

    context = browser.new_context(viewport={"width": 1280, "height": 800}, service_workers="block")
    context.route("**/*", decide)
    context.route_web_socket("**/*", refuse)
    try:
        yield context.new_page()
    finally:
        context.close()


# --- a small ensemble, trained once a session ------------------------------------------------------------------


@dataclass(frozen=True)
class Small:
    """12 digits at 8 x 8, 6 components of weight 3, UNets of few thousand parameters; `run` was trained undisturbed."""

    units: Units
    code: Code
    recipe: Recipe
    run: Run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A run trained in this process. Tests share it: copy `small.run.path` before changing anything in it."""
    import ablatable as ab
    from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig

    units, code = ab.Units.digits(12, size=8), ab.Code.balanced(units=12, components=6, seed=0)
    recipe = Recipe(
        component=UNetConfig(channels=(8, 8), norm_groups=4),
        training=TrainingConfig(steps=40, batch=4, learning_rate=4e-3),
    )
    run = ab.train(
        units, code, recipe, out=tmp_path_factory.mktemp("small") / "run", execution=Execution(workers=0, quiet=True)
    )
    return Small(units, code, recipe, run)


@pytest.fixture(scope="session")
def ideal(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The same units and code with ideal components: drawn in an eighth of the time, for what is stored and how."""
    import ablatable as ab

    recipe, out = ab.preset("ideal"), tmp_path_factory.mktemp("ideal") / "run"
    run = ab.train(small.units, small.code, recipe, out=out, execution=Execution(workers=0, quiet=True))
    return Small(small.units, small.code, recipe, run)


@pytest.fixture(scope="session")
def small_universe(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Universe:
    """All counterfactuals of three samples of `small`, and three spares. Copy its folder before changing it."""
    return universe_of(small, tmp_path_factory.mktemp("universe") / "u.zarr")


@pytest.fixture(scope="session")
def ideal_universe(ideal: Small, tmp_path_factory: pytest.TempPathFactory) -> Universe:
    """As `small_universe`, of `ideal`."""
    universe = universe_of(ideal, tmp_path_factory.mktemp("universe") / "ideal.zarr")
    assert len({universe.counterfactual(unit).tobytes() for unit in universe.unit_ids}) == 12, "no two can be confused"
    return universe


def universe_of(small: Small, out: Path) -> Universe:
    import ablatable as ab

    return ab.enumerate_universe(
        small.run.path,
        [5, 0, 9],
        out=out,
        sampling=Sampling(steps=6),
        spares=3,
        execution=Execution(workers=0, quiet=True),
    )


# --- explorers: written once a session ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Explored:
    """A site, and what it was made from."""

    path: Path
    run: Run
    universe: Universe


@pytest.fixture(scope="session")
def network_site(small: Small, small_universe: Universe, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """The explorer of `small`, whose components are networks; browsers may use their GPU."""
    pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install 'ablatable[explorer]'")
    import ablatable as ab

    folder = tmp_path_factory.mktemp("explorer") / "site"
    site = ab.write_explorer(small.run, universe=small_universe, out=folder, webgpu=True)
    return Explored(site.path, small.run, small_universe)


@pytest.fixture(scope="session")
def group_site(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """An explorer of an ideal ensemble in colour, whose units are groups of 1 to 5 images with awkward names."""
    import numpy as np

    import ablatable as ab
    from ablatable._runtime.execution import Execution

    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("groups")
    names = [f"artist {k}" for k in range(30)] + ["Eve, jr.", "<b>Bo</b>", "50% & more", "Zoë"]
    owner = np.repeat(np.arange(len(names)), rng.integers(1, 6, len(names)))
    shade = rng.integers(0, 256, (len(owner), 1, 1, 3))
    images = np.clip(shade + rng.integers(-30, 31, (len(owner), 9, 7, 3)), 0, 255).astype(np.uint8)
    quiet, code = Execution(workers=0, quiet=True), ab.Code.balanced(units=len(names), components=9, seed=2)
    run = ab.train(ab.Units(tuple(names), images, owner), code, ab.preset("ideal"), out=folder / "run", execution=quiet)
    universe = ab.enumerate_universe(
        run.path, range(5), out=folder / "u.zarr", sampling=Sampling(steps=12), spares=20, execution=quiet
    )
    return Explored(ab.write_explorer(run, universe=universe, out=folder / "site").path, run, universe)


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    """Starts processes that have imported torch and diffusers already."""
    made = Template()
    yield made
    made.close()


QUICK = "ablatable._runtime.workers.subprocess"


@pytest.fixture(scope="session", autouse=True)
def _quick_workers(template: Template) -> Iterator[None]:
    """Worker processes are forked from `template`. What they do, how they are told and how they end stays the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QUICK, SimpleNamespace(PIPE=subprocess.PIPE, Popen=functools.partial(Child, template)))
        yield


@pytest.fixture
def real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes are started as users start them, for tests whose subject that is."""
    monkeypatch.setattr(QUICK, subprocess)


@pytest.fixture(scope="session")
def fingerprints() -> Callable[[Path], dict[str, str]]:
    """A function: the SHA-256 of every file in a folder, but for locks and the log, which tell when things happened."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (".lock", ".lock.json", "log.jsonl")
        }

    return of


@pytest.fixture(scope="session", autouse=True)
def _own_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The log of errors is the tests' own, not the user's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    from ablatable import cli

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablatable", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
            raise SystemExit(0)
        code = stopped.value.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return run
