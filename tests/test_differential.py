"""Differential ablation: against central finite differences, torch.func, and what must hold of any derivative."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import jvp

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.diffusion import tangents
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.unet import build
from ablatable.errors import SettingsError, StoreError
from ablatable.universes import differential
from ablatable.universes.checking import check_universe
from ablatable.universes.differential import Differential, agreement, differentiate, extrapolate, sample_jacobian
from ablatable.universes.reader import Universe

SCHEDULE = Schedule()


def ideals(n: int = 4, count: int = 6) -> list[nn.Module]:
    images = np.moveaxis(ab.Units.digits(count, size=8).images, -1, 1)
    rng = np.random.default_rng(0)
    splits = [torch.from_numpy(images[rng.permutation(count)[: count // 2]]) for _ in range(n)]
    return [IdealDenoiser(split, SCHEDULE, torch.float64).eval() for split in splits]


def unets(n: int = 3, **config: object) -> list[nn.Module]:
    """Freshly built: a derivative does not care what was learned."""
    made = []
    for seed in range(n):
        component = build(UNetConfig(channels=(8, 8), norm_groups=4, **config), (1, 8, 8), seed)  # pyright: ignore[reportArgumentType]
        made.append(component.double().eval())
    return made


COMPONENTS: dict[str, Callable[[], list[nn.Module]]] = {
    "ideal": ideals,
    "unet": unets,
    "unet with attention": lambda: unets(2, attention=(1,), middle_attention=True),
}


def weighted(
    components: list[nn.Module], noise: Tensor, weights: Tensor, sampler: str, steps: int, clip: bool = False
) -> Tensor:
    """The sample drawn with these weights of the mean."""

    def denoiser(x: Tensor, t: Tensor | int) -> Tensor:
        return sum(w * component(x, t) for w, component in zip(weights, components, strict=True))  # pyright: ignore

    with torch.no_grad():
        return ab.sample(
            denoiser, noise, schedule=SCHEDULE, sampling=Sampling(sampler=sampler, steps=steps, clip=clip)
        )[0]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
@pytest.mark.parametrize("kind", COMPONENTS)
def test_central_differences(kind: str, sampler: str) -> None:
    """Relative error below 1e-6, in float64; two step sizes make the differences' own error of order h^4."""
    components, steps = COMPONENTS[kind](), 6
    n = len(components)
    noise = ab.noise_trajectory([3], steps, (1, 8, 8)).double()
    factual, jacobian = sample_jacobian(
        components, noise, schedule=SCHEDULE, sampling=Sampling(sampler=sampler, steps=steps, clip=False)
    )
    even = torch.full((n,), 1 / n, dtype=torch.float64)
    torch.testing.assert_close(factual, weighted(components, noise, even, sampler, steps), rtol=1e-9, atol=1e-9)
    for i in range(n):
        direction = -even.clone()
        direction[i] += 1

        def slope(h: float, direction: Tensor = direction) -> Tensor:
            ahead, back = (weighted(components, noise, even + s * h * direction, sampler, steps) for s in (1, -1))
            return (ahead - back) / (2 * h)

        h = 2e-4
        expected = (4 * slope(h) - slope(2 * h)) / 3
        assert (jacobian[i] - expected).norm() <= 1e-6 * expected.norm()
        assert expected.norm() > 1e-2


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_central_differences_with_clipping(sampler: str) -> None:
    """Untrained networks imply images far out of range. So small a step that no pixel crosses the edge within it."""
    components, steps, h = unets(), 6, 1e-7
    noise = ab.noise_trajectory([3], steps, (1, 8, 8)).double()

    def differentiated(clip: bool) -> tuple[Tensor, Tensor]:
        sampling = Sampling(sampler=sampler, steps=steps, clip=clip)
        return sample_jacobian(components, noise, schedule=SCHEDULE, sampling=sampling)

    factual, jacobian = differentiated(clip=True)
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    drawn = weighted(components, noise, even, sampler, steps, clip=True)
    torch.testing.assert_close(factual, drawn, rtol=1e-9, atol=1e-9)
    for i in range(3):
        direction = torch.eye(3, dtype=torch.float64)[i] - even
        ahead, back = (weighted(components, noise, even + s * h * direction, sampler, steps, True) for s in (1, -1))
        expected = (ahead - back) / (2 * h)
        assert (jacobian[i] - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 1e-2
    assert (differentiated(clip=False)[1] - jacobian).norm() > 0.1 * jacobian.norm()  # it was clipped


def test_multistep_sampler() -> None:
    """The directions have the sampler's memory of their own. diffusers keeps parts of it in float32: a looser bound."""
    components = ideals()
    noise = ab.noise_trajectory([3], 6, (1, 8, 8)).double()
    _, jacobian = sample_jacobian(components, noise, schedule=SCHEDULE, sampling=Sampling("dpmsolver++", 6, clip=False))
    even, direction = torch.full((4,), 0.25, dtype=torch.float64), torch.tensor([0.75, -0.25, -0.25, -0.25])
    ahead, back = (weighted(components, noise, even + s * direction, "dpmsolver++", 6) for s in (5e-3, -5e-3))
    expected = (ahead - back) / 1e-2
    assert (jacobian[0] - expected).norm() <= 2e-3 * expected.norm()


def test_prediction_is_shared_and_directions_are_torch_func_s() -> None:
    for component in unets(1) + ideals(1):
        x, directions = torch.randn(2, 5, 1, 8, 8, dtype=torch.float64)
        with torch.no_grad():
            predicted, moved = tangents.push(component, x[0], 300, directions)
            for direction, got in zip(directions, moved, strict=True):
                plain, expected = jvp(lambda v, c=component: c(v[None], torch.tensor([300]))[0], (x[0],), (direction,))
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
                torch.testing.assert_close(predicted, plain, rtol=1e-9, atol=1e-11)


def test_sides_that_need_padding() -> None:
    component = build(UNetConfig(channels=(8, 8), norm_groups=4), (1, 9, 11), 0).double().eval()
    x, direction = torch.randn(2, 1, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        moved = tangents.push(component, x, 10, direction[None])[1][0]
    expected = jvp(lambda v: component(v[None], torch.tensor([10]))[0], (x,), (direction,))[1]
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-11)


def test_chunks_of_directions_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ab.noise_trajectory([3], 4, (1, 8, 8)).double()
    whole = sample_jacobian(ideals(), noise, schedule=SCHEDULE, sampling=Sampling(steps=4))[1]
    monkeypatch.setattr(differential, "DIRECTIONS", 2)
    torch.testing.assert_close(
        sample_jacobian(ideals(), noise, schedule=SCHEDULE, sampling=Sampling(steps=4))[1], whole, rtol=1e-9, atol=1e-12
    )


def test_extrapolation() -> None:
    """By hand: of 4 components the survivors 1 and 3 go from a quarter to a half, the others from a quarter to none."""
    rng = np.random.default_rng(0)
    factual, jacobian = rng.standard_normal((1, 2, 2)), rng.standard_normal((4, 1, 2, 2))
    words = np.array([[True, False, True, False], [False, False, False, False]])
    by_hand = factual - jacobian[0] / 4 + jacobian[1] / 4 - jacobian[2] / 4 + jacobian[3] / 4
    whole, half = (extrapolate(factual, jacobian, words, step=step) for step in (1, 0.5))
    np.testing.assert_allclose(whole[0], by_hand, rtol=1e-6)
    np.testing.assert_allclose(whole[1], factual, rtol=1e-6)
    np.testing.assert_allclose(half - factual, (whole - factual) / 2, rtol=1e-5, atol=1e-7)  # linear in dw


def test_agreement() -> None:
    rng = np.random.default_rng(0)
    exact = rng.random(40)
    for noise in (0.0, 0.05, 0.5):
        estimate = exact + noise * rng.standard_normal(40)
        got, place = agreement(exact, estimate), list(np.argsort(-estimate)).index(exact.argmax())
        assert got["rank_correlation"] == pytest.approx(spearmanr(exact, estimate).statistic)
        assert (got["top_found"], got["top_tenth"]) == (place == 0, place < 4)


# --- stored beside a universe ---


@pytest.fixture
def universe(small_universe: Universe, tmp_path: Path) -> Universe:
    shutil.copytree(small_universe.url, tmp_path / "u.zarr")
    return Universe.open(tmp_path / "u.zarr")


def contents(universe: Universe) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(universe.url) / "differential").iterdir()}


def test_beside_a_universe(small, universe: Universe, call) -> None:
    """Stored, resumed, whatever the workers; damage is found and only that is computed again."""
    found = differentiate(small.run.path, universe.url, execution=Execution(workers=0, quiet=True))
    first = contents(universe)
    assert len(first) == 3 and check_universe(universe.url) == []
    sample, seed = 1, universe.seeds[1]
    noise = ab.noise_trajectory([seed], 6, (1, 8, 8))
    components = small.run.ensemble().components
    factual, jacobian = sample_jacobian(
        components, noise, schedule=small.run.recipe.schedule, sampling=Sampling(steps=6)
    )
    np.testing.assert_allclose(found.read(seed)[1], jacobian, rtol=1e-4, atol=1e-4)
    delivered = np.rint(np.clip((factual.numpy() + 1) * 127.5, 0, 255))
    assert np.abs(delivered[0] - universe.factual[sample, ..., 0]).max() <= 1

    path = Path(universe.url) / "differential" / f"{seed}.safetensors"
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(StoreError, match="damaged"):
        found.read(seed)
    (Path(universe.url) / "differential" / f"{universe.seeds[2]}.safetensors").unlink()
    untouched = Path(universe.url) / "differential" / f"{universe.seeds[0]}.safetensors"
    kept = untouched.stat().st_mtime_ns
    differentiate(small.run.path, universe.url, execution=Execution(workers=1, quiet=True))
    assert contents(universe) == first
    assert untouched.stat().st_mtime_ns == kept

    table = found.compare()
    assert table["seed"].to_list() == list(universe.seeds)
    code, text, _ = call("universe", "differential", small.run.path, universe.url, "--workers", "0", "--json")
    assert code == 0 and '"rank_correlation"' in text
    code, text, _ = call("universe", "differential", small.run.path, universe.url, "--workers", "0")
    assert code == 0 and "rank correlation" in text


def test_compare_counts_rightly(universe: Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates that are exact agree in everything; the factual sample as every estimate is wrong by all there is."""
    found = Differential(universe)
    monkeypatch.setattr(found, "landscape", universe.landscape)
    table = found.compare()
    assert table["error"].to_list() == [0, 0, 0] and table["radius_ratio"].to_list() == [1, 1, 1]
    assert table["rank_correlation"].to_list() == pytest.approx([1, 1, 1]) and all(table["top_found"])
    rows = universe.settings.ablations
    monkeypatch.setattr(found, "landscape", lambda sample: np.repeat(universe.factual[sample][None], rows, axis=0))
    assert found.compare()["error"].to_list() == pytest.approx([1, 1, 1])


def test_another_run_is_refused(universe: Universe, tmp_path: Path) -> None:
    units, code = ab.Units.digits(4, size=8), ab.Code.balanced(units=4, components=4, seed=0)
    other = ab.train(
        units, code, ab.preset("ideal"), out=tmp_path / "other", execution=Execution(workers=0, quiet=True)
    )
    with pytest.raises(SettingsError, match="not drawn from the run"):
        differentiate(other.path, universe.url, execution=Execution(workers=0, quiet=True))
    with pytest.raises(StoreError, match="missing, damaged or of another"):
        Differential(universe).read(universe.seeds[0])
