"""The explorer in a real Chromium: what it draws is what the library draws, and it can be used, at any width."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ablatable as ab
from ablatable.explorer.serving import file_server

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from conftest import Explored

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
WIDTHS = {"wide": (1280, 800), "phone": (390, 844)}
PATIENCE = 120_000  # milliseconds; a guard, not a measure

# In the page: draw rows with the page's own engine, and give the finished pictures.
DRAW = """
async (rows) => {
  const { openEngine } = await import("./engine/client.js");
  const manifest = await (await fetch("data/manifest.json")).json();
  globalThis.engine ??= openEngine(manifest, location.href, () => {});
  let last = null;
  await (await globalThis.engine).draw(rows, { onFrame: (frame) => { last = frame; } });
  return Array.from(last.levels);
}
"""
# What a panel shows, as 8-bit RGB.
PIXELS = """
(canvas) => Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)
"""


@dataclass
class Visit:
    """A page that is open, and what it did that it must not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    open: int = 0  # requests that have not ended

    def ready(self) -> Visit:
        """Wait until the engine has drawn the first sample."""
        self.page.wait_for_selector("html[data-ready=yes]", timeout=PATIENCE)
        return self

    def finished(self) -> Visit:
        """Wait until a removal is drawn to its end, and shown."""
        self.page.wait_for_selector("#findings table", timeout=PATIENCE)
        steps = self.page.get_attribute("#step", "max") or ""
        expect(self.page.locator("#step")).to_have_value(steps, timeout=PATIENCE)
        return self

    def settle(self) -> None:
        """Wait until no request is open."""
        while self.open:
            self.page.wait_for_timeout(20)

    def unit(self, name: str) -> Any:
        return self.page.locator("#wall").get_by_title(name, exact=True).locator("visible=true").first

    def pixels(self, panel: str) -> np.ndarray:
        return np.array(self.page.locator(f"#panel-{panel} .frame canvas").evaluate(PIXELS)).reshape(-1, 4)[:, :3]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open a site, served on this machine. At the end: no console message, no request to another host."""
    servers, visits, contexts = [], list[Visit](), list["BrowserContext"]()

    def open_site(
        path: Path,
        *,
        width: str = "wide",
        hash: str = "",
        address: str | None = None,
        chromium: Browser = browser,
        script: str = "",
        **options: Any,
    ) -> Visit:
        if address is None:
            server = file_server(path)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.append(server)
            address = f"http://127.0.0.1:{server.server_address[1]}/"
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        context = chromium.new_context(viewport=size, service_workers="block", has_touch=width == "phone", **options)
        contexts.append(context)
        context.add_init_script(script)
        made = Visit(context.new_page())
        visits.append(made)

        def asked(url: str) -> None:
            made.open += 1
            made.asked.append(url)
            if not url.startswith((address, "data:", "blob:")):
                made.complaints.append(f"asked for {url}")

        def ended(complaint: str | None = None) -> None:
            made.open -= 1
            made.complaints += [complaint] if complaint else []

        def said(kind: str, text: str) -> None:
            if "willReadFrequently" not in text:  # it is this test that reads canvases back
                made.complaints.append(f"{kind}: {text}")

        made.page.on("console", lambda message: said(message.type, message.text))
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        context.on("request", lambda request: asked(request.url))
        context.on("requestfinished", lambda _: ended())
        context.on("requestfailed", lambda request: ended(f"failed: {request.url} ({request.failure})"))
        made.page.goto(address + hash)
        return made

    yield open_site
    complaints = [complaint for made in visits for complaint in made.complaints]
    for context in contexts:
        context.close()
    for server in servers:
        server.shutdown()
        server.server_close()
    assert complaints == []


# --- what is drawn ----------------------------------------------------------------------------------------------


def share_off(visit: Visit, site: Explored, samples: range, units: range) -> float:
    """The share of pixels that the browser draws more than 2 grey levels off what the universe holds."""
    words, ids, off = site.run.code.words(), site.run.unit_ids, []
    for sample in samples:
        rows = [{"seed": site.universe.seeds[sample], "alive": [True] * site.run.code.components}]
        rows += [{**rows[0], "alive": [bit == "0" for bit in words[unit]]} for unit in units]
        drawn = np.array(visit.page.evaluate(DRAW, rows)).reshape(len(rows), *site.run.shape)
        exact = np.stack(
            [site.universe.factual[sample], *(site.universe.counterfactual(ids[k])[sample] for k in units)]
        )
        off.append(np.abs(drawn - np.moveaxis(exact, -1, 1).astype(int)) > 2)
    return float(np.mean(off))


@pytest.mark.parametrize("kind", ["network_site", "group_site"])
def test_redrawn_pictures_are_the_librarys(kind: str, visit: Callable[..., Visit], request: Any) -> None:
    site: Explored = request.getfixturevalue(kind)
    assert share_off(visit(site.path).ready(), site, range(2), range(3)) <= 0.01


@pytest.mark.slow
def test_redrawn_pictures_of_trained_networks_are_the_librarys(
    visit: Callable[..., Visit], tmp_path: Path, browser: Browser
) -> None:
    from conftest import Explored

    quiet, units = ab.Execution(workers=0, quiet=True), ab.Units.digits(24, size=14)
    code = ab.Code.balanced(units=24, components=8, seed=0)
    run = ab.train(units, code, ab.preset("tiny", steps=600), out=tmp_path / "run", execution=quiet)
    universe = ab.enumerate_universe(
        run.path, range(8), out=tmp_path / "u.zarr", sampling=ab.Sampling(steps=25), execution=quiet
    )
    made = ab.write_explorer(run, universe=universe, out=tmp_path / "site")
    site = Explored(made.path, run, universe)
    assert share_off(visit(site.path).ready(), site, range(8), range(20)) <= 0.01


# In the page: the engine of a manifest that takes the GPU whatever the time it takes; then as DRAW.
TAKE_GPU = """
async () => {
  const { openEngine } = await import("./engine/client.js");
  const manifest = await (await fetch("data/manifest.json")).json();
  manifest.webgpu = { rounds: 1, handicap: 0 };
  const engine = await openEngine(manifest, location.href, () => {});
  await new Promise((resolve) => { engine.onmoved = resolve; });
  globalThis.engine = engine;
  return engine.where;
}
"""


@pytest.mark.slow
def test_a_gpu_draws_what_the_library_draws(
    network_site: Explored, visit: Callable[..., Visit], browser_with_gpu: Browser
) -> None:
    shown = visit(network_site.path, chromium=browser_with_gpu).ready()
    assert shown.page.evaluate("(async () => (await navigator.gpu.requestAdapter()) !== null)()"), "no WebGPU"
    assert shown.page.evaluate(TAKE_GPU) == "in this browser, on the GPU"
    assert share_off(shown, network_site, range(1), range(2)) <= 0.01
    shown.settle()


def test_a_browser_without_a_gpu_fetches_nothing_for_one(network_site: Explored, visit: Callable[..., Visit]) -> None:
    assert (network_site.path / "vendor/webgpu/ort.webgpu.bundle.min.mjs").exists()
    shown = visit(network_site.path).ready()
    shown.settle()
    assert not [url for url in shown.asked if "webgpu" in url]
    assert "in this browser." in shown.page.locator("#about").inner_text()


def test_the_panels_show_what_was_drawn_beside_its_null(network_site: Explored, visit: Callable[..., Visit]) -> None:
    name, universe = network_site.run.unit_ids[4], network_site.universe
    page = visit(network_site.path, hash=f"#seed={universe.seeds[1]}&without={name}").ready().finished()
    exact = {
        "factual": universe.factual[1],
        "ablated": universe.counterfactual(name)[1],
        "null": universe.ablations([universe.settings.spares[0]])[0, 1],
    }
    for panel, picture in exact.items():
        assert np.abs(page.pixels(panel)[:, 0] - picture.ravel().astype(int)).max() <= 2
        assert page.page.locator(f"#panel-{panel} .tag").inner_text() == "redrawn here"
        assert page.page.locator(f"#panel-{panel} .exact").is_visible()
    moved = universe.distances()[4, 1]
    cells = page.page.locator("#findings tbody tr").nth(1).locator("td").first.inner_text()
    assert float(cells) == pytest.approx(moved, abs=1.0)


# --- how it is used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_a_visitor_removes_units_until_none_is_left(
    group_site: Explored, visit: Callable[..., Visit], width: str
) -> None:
    code, ids = group_site.run.code, group_site.run.unit_ids
    shown = visit(group_site.path, width=width).ready()
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#panel-ablated canvas >> visible=true").count() == 0  # nobody is removed: no picture, no null
    removed: list[int] = []
    while True:
        unit = next(k for k in range(len(ids)) if k not in removed and code.survivors(removed)[code.matrix[k]].any())
        shown.unit(ids[unit]).click()
        removed.append(unit)
        alive = code.survivors(removed)
        dark = page.locator(".lamp-row.own .lamp.dark").count()
        assert dark == int((~alive).sum())
        if not alive.any():
            break
        shown.finished()
        assert f"{int(alive.sum())} of 9 components left" in page.locator("#budget").inner_text()
        null_dark = page.locator(".lamp-row.null .lamp.dark").count()
        if page.locator("#panel-ablated .frame canvas").is_visible():
            # a null of as many components, or the reason why there is none
            assert null_dark == dark or "No other set" in page.locator("#panel-null").inner_text()
    assert "No component is left" in page.locator("#budget").inner_text()
    assert not page.locator("#panel-ablated .frame canvas").is_visible()
    assert not page.locator("#panel-null .frame canvas").is_visible()
    page.get_by_role("button", name="Put everyone back").click()
    assert page.locator(".lamp.dark").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_address_holds_what_is_seen(group_site: Explored, visit: Callable[..., Visit]) -> None:
    first = visit(group_site.path).ready()
    for name in ("Eve, jr.", "<b>Bo</b>", "50% & more"):
        first.unit(name).click()
    first.page.locator("[data-seed='3']").click()
    first.finished()
    first.page.locator("#step").fill("5")
    address = first.page.url
    again = visit(group_site.path, address=address.partition("#")[0], hash="#" + address.partition("#")[2]).ready()
    expect(again.page.locator("#step")).to_have_value("5", timeout=PATIENCE)
    assert again.page.locator(".chip").all_inner_texts() == first.page.locator(".chip").all_inner_texts()
    assert again.page.locator("[data-seed='3']").get_attribute("aria-checked") == "true"
    for panel in ("factual", "ablated", "null"):
        assert np.array_equal(first.pixels(panel), again.pixels(panel))
    assert not again.page.locator("b", has_text="Bo").count()  # names are text


def test_steps_can_be_watched_and_chosen(network_site: Explored, visit: Callable[..., Visit]) -> None:
    shown = visit(network_site.path, hash=f"#without={network_site.run.unit_ids[0]}").ready().finished()
    last = shown.pixels("ablated")
    shown.page.locator("#step").fill("0")
    # at the start, all have the same noise
    assert np.array_equal(shown.pixels("ablated"), shown.pixels("factual"))
    assert np.array_equal(shown.pixels("ablated"), shown.pixels("null"))
    assert not np.array_equal(shown.pixels("ablated"), last)
    shown.page.locator("#step").fill("3")
    guess = shown.pixels("factual")
    shown.page.get_by_label("Show the ensemble").uncheck()
    assert not np.array_equal(shown.pixels("factual"), guess)
    shown.page.get_by_role("button", name="Play the steps").click()
    shown.finished()
    assert np.array_equal(shown.pixels("ablated"), last)


def test_pointing_previews_the_stored_picture_and_its_null(group_site: Explored, visit: Callable[..., Visit]) -> None:
    shown, universe = visit(group_site.path).ready(), group_site.universe
    name = group_site.run.unit_ids[7]
    shown.unit(name).hover()
    expect(shown.page.locator("#panel-ablated .tag")).to_contain_text("preview", timeout=PATIENCE)
    spare = universe.settings.spares[0]
    assert np.array_equal(shown.pixels("ablated"), universe.counterfactual(name)[0].reshape(-1, 3))
    assert np.array_equal(shown.pixels("null"), universe.ablations([spare])[0, 0].reshape(-1, 3))
    assert shown.page.locator("#panel-ablated .tag").inner_text() == "stored (exact), preview"
    shown.page.mouse.move(2, 2)
    shown.page.wait_for_selector("#panel-ablated[data-empty=true]")


def test_new_noise_is_drawn_here_and_says_that_nothing_is_stored(
    network_site: Explored, visit: Callable[..., Visit]
) -> None:
    shown = visit(network_site.path, hash=f"#without={network_site.run.unit_ids[1]}").ready().finished()
    shown.page.get_by_role("button", name="New noise").click()
    shown.finished()
    assert "new" in shown.page.locator("#findings").inner_text()
    assert not shown.page.locator("#panel-ablated .exact").is_visible()
    seed = int(shown.page.url.partition("seed=")[2].partition("&")[0])
    rows = [{"seed": seed, "alive": [bit == "0" for bit in network_site.run.code.words()[1]]}]
    assert np.array_equal(shown.pixels("ablated")[:, 0], np.array(shown.page.evaluate(DRAW, rows)))


def test_the_keyboard_reaches_everything(group_site: Explored, visit: Callable[..., Visit]) -> None:
    shown = visit(group_site.path).ready()
    page, ids = shown.page, group_site.run.unit_ids
    shown.unit(ids[0]).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    shown.finished()
    assert page.locator(".chip").inner_text().startswith(ids[1])
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.title") == ids[-1]
    page.keyboard.press("Escape")
    assert page.locator(".chip").count() == 0
    page.locator("[data-seed='0']").focus()
    page.keyboard.press("ArrowRight")
    assert "seed=1" in page.url
    assert page.evaluate("document.activeElement.dataset.seed") == "1"
    page.locator("[data-component='2']").focus()
    page.keyboard.press("Space")
    dim = page.locator(".tile.dim").count()
    assert dim == int((~group_site.run.code.matrix[:, 2]).sum())


def test_groups_fold_out_and_names_can_be_found(group_site: Explored, visit: Callable[..., Visit]) -> None:
    shown, units = visit(group_site.path).ready(), group_site.run.units()
    unit = max(units.ids, key=lambda name: len(units.of(name)))
    count = len(units.of(unit))
    fold = shown.page.get_by_role("button", name=f"All {count} pictures of {unit}", exact=True)
    fold.click()
    assert shown.page.locator(".folded canvas").count() == count
    assert fold.get_attribute("aria-expanded") == "true"
    fold.click()
    assert shown.page.locator(".folded").count() == 0
    shown.page.get_by_label("Find by name").fill("zOË")
    assert shown.page.locator(".tile >> visible=true").count() == 1


def test_answers_say_what_the_tests_say(group_site: Explored, visit: Callable[..., Visit]) -> None:
    from ablatable.analysis.calibration import calibrate
    from ablatable.analysis.witness import witness_pictures

    shown, universe = visit(group_site.path, hash="#seed=2").ready(), group_site.universe
    tested = calibrate(universe, statistic="likeness")
    told = witness_pictures(group_site.run, universe.factual, universe.seeds)
    order = np.lexsort((-universe.distances()[:, 2], told.p[:, 2].astype(np.float32)))
    shown.page.locator("#way-most").click()
    names = shown.page.locator(".entry strong").all_inner_texts()
    assert names == [universe.unit_ids[k] for k in order[:6]]
    text = shown.page.locator("#answer").inner_text()
    count = int((told.q[:, 2] <= 0.1).sum())
    assert (f"{count} of 34 units" if count else "recognise nobody here beyond chance") in text
    shown.page.locator("#way-nobody").click()
    free = [sample for sample in range(5) if min(tested.q[:, sample].min(), told.q[:, sample].min()) > 0.1]
    best = max(
        free or range(5),
        key=lambda s: (round(tested.radius_p[s], 6), tested.q[:, s].min(), np.float32(told.q[:, s].min())),
    )
    assert f"seed={best}" in shown.page.url
    text = shown.page.locator("#answer").inner_text()
    assert "no proof that nobody mattered" in text and "it takes 339" in text  # 20 nulls cannot mark one of 34
    assert ("There is none" in text) == (not free)


def test_a_removal_is_shown_with_both_tests(network_site: Explored, visit: Callable[..., Visit]) -> None:
    from ablatable.analysis.calibration import calibrate
    from ablatable.analysis.witness import witness_pictures

    run, universe = network_site.run, network_site.universe
    told = witness_pictures(run, universe.factual, universe.seeds)
    tested = calibrate(universe, statistic="likeness")
    unit = int(told.p[:, 1].argmin())
    shown = visit(network_site.path, hash=f"#seed={universe.seeds[1]}&without={run.unit_ids[unit]}").ready().finished()
    text = shown.page.locator("#findings").inner_text()
    for p, q in ((told.p[unit, 1], told.q[unit, 1]), (tested.p[unit, 1], tested.q[unit, 1])):
        assert re.search(rf"p = {rounded(p)}, q = {rounded(q)}\b", text), (p, q, text)
    assert ("no more than chance" in text) == (told.p[unit, 1] > 0.05)


def rounded(value: float) -> str:
    """As the page writes a rate: rounded up."""
    digits = 3 if value < 0.1 else 2
    return f"{np.ceil(round(float(value) * 10**digits, 4)) / 10**digits:.{digits}f}"


def test_without_nulls_nobody_can_tell(visit: Callable[..., Visit], tmp_path: Path) -> None:
    # every codeword of weight 1 is taken: there is no null to compare with
    units = ab.Units.digits(4)
    run = ab.train(units, ab.Code.balanced(units=4, components=4, weight=1), ab.preset("ideal"), out=tmp_path / "run")
    made = ab.write_explorer(run, out=tmp_path / "site", seeds=[0], sampling=ab.Sampling(steps=4))
    shown = visit(made.path).ready()
    shown.page.get_by_role("button", name="New noise").click()
    shown.page.locator("#way-most").click()
    shown.page.wait_for_selector(".ranking", timeout=PATIENCE)
    assert "Without nulls nobody can tell" in shown.page.locator("#answer .verdict").inner_text()
    assert shown.page.locator(".entry").count() == 4


def test_of_new_noise_every_removal_is_drawn_to_answer(
    group_site: Explored, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    made = ab.write_explorer(group_site.run, out=tmp_path / "site", seeds=[0], sampling=ab.Sampling(steps=4))
    shown = visit(made.path).ready()
    assert shown.page.locator("#way-nobody").count() == 0
    shown.page.get_by_role("button", name="New noise").click()
    shown.page.locator("#way-most").click()
    shown.page.wait_for_selector(".ranking", timeout=PATIENCE)
    text = shown.page.locator("#answer").inner_text()
    assert "all drawn here" in text and shown.page.locator(".entry").count() == 6


@pytest.mark.parametrize("removals", [1, 2])
def test_everywhere_shows_every_sample_beside_its_null(
    group_site: Explored, visit: Callable[..., Visit], removals: int
) -> None:
    names = ["Zoë", "artist 3"][:removals]
    shown = visit(group_site.path).ready()
    for name in names:
        shown.unit(name).click()
    shown.finished()
    shown.page.locator("#way-everywhere").click()
    expect(shown.page.locator("#everywhere .verdict")).not_to_contain_text("Denoising", timeout=PATIENCE)
    cards = shown.page.locator(".card")
    assert cards.count() == 5
    tag = "stored (exact)" if removals == 1 else "redrawn here"
    for k in range(5):
        assert cards.nth(k).locator(".tag").inner_text() == tag
        assert cards.nth(k).locator("canvas").count() == 3
        texts = cards.nth(k).locator(".trio span").all_inner_texts()
        assert texts[1].startswith("without: ") and texts[2].startswith("null: ")
    if removals == 1:
        distances = group_site.universe.distances()[group_site.run.unit_ids.index("Zoë")]
        told = [float(cards.nth(k).locator(".trio span").nth(1).inner_text().split()[1]) for k in range(5)]
        assert told == pytest.approx(distances, abs=0.051)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_tour_has_five_steps_and_does_what_it_says(
    group_site: Explored, visit: Callable[..., Visit], width: str
) -> None:
    shown = visit(group_site.path, width=width).ready()
    page = shown.page
    page.get_by_role("button", name="Take the tour").click()
    for step in range(1, 6):
        assert f"{step} of 5" in page.locator("#tour").inner_text()
        assert page.locator(".toured").count() == 1
        box = page.locator("#tour").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= WIDTHS[width][0]
        if step == 3:
            shown.finished()
            assert page.locator(".chip").count() == 1
        page.keyboard.press("Enter")  # the focus is on Next
    assert not page.locator("#tour").is_visible()
    assert page.evaluate("document.activeElement.id") == "tour-start"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(group_site: Explored, visit: Callable[..., Visit], width: str, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("needs axe-core: npm ci --prefix web")
    shown = visit(group_site.path, width=width, color_scheme=scheme, reduced_motion="reduce").ready()
    shown.unit("Zoë").click()
    shown.finished()
    shown.page.locator("#way-most").click()
    shown.page.locator("#way-everywhere").click()
    expect(shown.page.locator("#everywhere .verdict")).not_to_contain_text("Denoising", timeout=PATIENCE)
    shown.page.locator(".fold >> visible=true").first.click()
    shown.page.get_by_role("button", name="Take the tour").click()
    shown.page.evaluate(AXE.read_text())
    found = shown.page.evaluate("axe.run().then((results) => results.violations)")
    assert [(one["id"], [node["html"][:160] for node in one["nodes"][:4]]) for one in found] == []


def test_reduced_motion_shows_the_end_at_once(network_site: Explored, visit: Callable[..., Visit]) -> None:
    shown = visit(network_site.path, reduced_motion="reduce").ready()
    shown.page.evaluate(
        "globalThis.seen = new Set(); const text = document.querySelector('#step-text');"
        "new MutationObserver(() => seen.add(text.textContent)).observe(text, { childList: true })"
    )
    shown.unit(network_site.run.unit_ids[2]).click()
    shown.finished()
    steps = set(shown.page.evaluate("[...seen]"))
    assert steps <= {"step 0 of 6", "step 6 of 6"}


def test_the_page_says_what_to_do_when_opened_from_disk(group_site: Explored, page: Page) -> None:
    page.goto((group_site.path / "index.html").as_uri())
    assert "http.server" in page.locator("#about").inner_text()


def test_a_damaged_site_says_so(group_site: Explored, browser: Browser, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(group_site.path, tmp_path / "site")
    (tmp_path / "site/data/distances.bin.gz").unlink()
    with file_server(tmp_path / "site") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        expect(opened.locator("#about")).to_contain_text("could not be opened", timeout=PATIENCE)
        assert "distances.bin.gz" in opened.locator("#about").inner_text()
        context.close()
        server.shutdown()


# In the page: what is read of each body that is read as a stream.
WATCH_BODIES = """
globalThis.bodies = [];
const getReader = ReadableStream.prototype.getReader;
ReadableStream.prototype.getReader = function () {
  const reader = getReader.call(this), read = reader.read.bind(reader), body = { bytes: 0, ended: false };
  bodies.push(body);
  reader.read = async () => {
    const part = await read();
    if (part.done) body.ended = true;
    else body.bytes += part.value.length;
    return part;
  };
  return reader;
};
"""


def watched(app: Any, sent: list[int]) -> Any:
    """The same application; it keeps how many bytes each drawing took that it sent to the end."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        total = 0

        async def counted(message: Any) -> None:
            nonlocal total
            await send(message)
            total += len(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                sent.append(total)

        await app(scope, receive, counted if scope.get("path") == "/api/draw" else send)

    return call


def test_the_same_page_with_a_server_behind_it(
    network_site: Explored, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    """The page reads each answer to its last byte.

    Chromium calls a few of such requests aborted nevertheless. It does so when a script has read the body's stream to
    its end before the loader says that it has finished: in a loop of such requests some were, and none whose body was
    read by `text()`.
    """
    pytest.importorskip("fastapi", reason="needs fastapi and uvicorn: pip install 'ablatable[serve]'")
    from ablatable.explorer.server import Background, application

    made = ab.write_explorer(network_site.run, universe=network_site.universe, out=tmp_path / "site", max_mb=0.02)
    assert made.needs_server
    sent: list[int] = []
    app = watched(application(network_site.run, made.path, network_site.universe.settings.sampling), sent)
    with Background(app) as address:
        hash = f"#without={network_site.run.unit_ids[3]}"
        shown = visit(made.path, address=address, hash=hash, script=WATCH_BODIES).ready().finished()
        exact = network_site.universe.counterfactual(network_site.run.unit_ids[3])[0].ravel().astype(int)
        assert np.abs(shown.pixels("ablated")[:, 0] - exact).max() <= 2
        assert shown.page.locator("#panel-ablated .tag").inner_text() == "redrawn by the server"
        expect(shown.page.locator("#live")).to_contain_text("Redrawn without", timeout=PATIENCE)
        shown.settle()
        assert len(sent) == shown.asked.count(f"{address}api/draw") == 1
        assert shown.page.evaluate("bodies") == [{"bytes": sent[0], "ended": True}]
        shown.complaints = [
            text for text in shown.complaints if text != f"failed: {address}api/draw (net::ERR_ABORTED)"
        ]
        shown.page.context.close()


@pytest.fixture(scope="module")
def asked_site(tmp_path_factory: pytest.TempPathFactory) -> tuple[ab.Run, Path]:
    """The explorer of an ensemble that draws by class, of two samples that were asked for different classes."""
    from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig

    folder, rng = tmp_path_factory.mktemp("asked"), np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    units = ab.Units(tuple("abcd"), images, np.arange(4), labels=("round", "long", "round", "long"))
    code = ab.Code(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool))
    recipe = Recipe(
        component=UNetConfig(channels=(8, 8), norm_groups=4),
        training=TrainingConfig(steps=4, batch=2, condition_dropout=0.2),
    )
    here, classes = ab.Execution(workers=0, quiet=True), ("round", "long")
    run = ab.train(units, code, recipe, out=folder / "run", classes=classes, execution=here)
    site = ab.write_explorer(
        run,
        out=folder / "site",
        seeds=[4, 9],
        sampling=ab.Sampling("ddim", 3),
        conditions=[ab.Condition(label="round"), ab.Condition(label="long")],
    )
    return run, site.path


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_sample_was_asked_for_stands_beside_its_seed(
    asked_site: tuple[ab.Run, Path], visit: Callable[..., Visit], width: str
) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi and uvicorn: pip install 'ablatable[serve]'")
    from ablatable.explorer.server import Background, application

    run, site = asked_site
    known = {4: ab.Condition(label="round"), 9: ab.Condition(label="long")}
    with Background(application(run, site, ab.Sampling("ddim", 3), conditions=known)) as address:
        shown = visit(site, width=width, address=address).ready()
        page, note = shown.page, shown.page.locator("#panel-factual .note")
        expect(note).to_have_text("Seed 4, label round")
        page.get_by_role("radio", name="Seed 9, label long", exact=True).click()
        expect(note).to_have_text("Seed 9, label long")
        assert note.evaluate("(e) => e.scrollHeight <= e.clientHeight")  # all of it can be read
        shown.unit("b").click()
        shown.finished()
        boxes = [page.locator(f"#panel-{name} .frame").bounding_box() for name in ("factual", "ablated", "null")]
        assert len({round(box["y"]) for box in boxes if box}) == 1
        page.locator("#way-everywhere").click()
        heads = page.locator("#everywhere .card-head strong")
        assert heads.all_inner_texts() == ["Seed 4, label round", "Seed 9, label long"]
        expect(page.locator("#everywhere .verdict")).not_to_contain_text("Denoising", timeout=PATIENCE)
        page.get_by_role("button", name="New noise").click()
        expect(note).to_have_text(re.compile(r"^Seed \d{4,}, label round$"))  # as the server draws it
        expect(page.locator("#live")).to_contain_text("Redrawn without", timeout=PATIENCE)
        shown.settle()
        shown.complaints = [text for text in shown.complaints if "net::ERR_ABORTED" not in text]
        page.context.close()
