"""The ensemble against a hand-written loop over survivors; each row's bits whatever it is computed with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.unet import build

ALIVE = np.array(
    [
        [1, 1, 1, 1, 1],
        [1, 0, 1, 0, 1],
        [0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 1, 1, 1],
    ],
    bool,
)


class Recorder(nn.Module):
    """A component that can be computed by hand, and notes the batches it sees."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.batches: list[int] = []

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        self.batches.append(len(x))
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return self.factor * x + t


@pytest.fixture(scope="module")
def unets() -> list[nn.Module]:
    config = UNetConfig(channels=(8, 8), norm_groups=4)
    return [build(config, (1, 8, 8), seed=seed).eval() for seed in range(5)]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def by_hand(components: list, alive: np.ndarray, x: Tensor, times: list[int]) -> Tensor:
    """Row by row, survivor by survivor."""
    rows = []
    for row, t in enumerate(times):
        total, count = torch.zeros_like(x[0], dtype=torch.float64), 0
        for index, component in enumerate(components):
            if alive[row][index]:
                total += component(x[row : row + 1], t)[0].double()
                count += 1
        rows.append(total / count)
    return torch.stack(rows).to(x.dtype)


@pytest.mark.parametrize("batch", [None, 3, 16])
def test_mean_over_survivors(unets: list[nn.Module], batch: int | None) -> None:
    x, times = torch.randn(7, 1, 8, 8), [0, 5, 999, 400, 5, 77, 3]
    for components in ([Recorder(f) for f in (1.0, -2.0, 0.5, 7.0, 3.0)], unets):
        ensemble = Ensemble(components, batch=batch)
        own = ensemble.ablate(ALIVE)(x, torch.tensor(times))
        torch.testing.assert_close(own, by_hand(components, ALIVE, x, times), rtol=1e-5, atol=1e-5)
        for alive in ([1, 1, 1, 1, 1], [0, 1, 0, 0, 1]):
            same = ensemble.ablate(np.array(alive, bool))(x, 40)
            torch.testing.assert_close(same, by_hand(components, [alive] * 7, x, [40] * 7), rtol=1e-5, atol=1e-5)
        everyone = ensemble(x, torch.tensor(40))
        torch.testing.assert_close(everyone, by_hand(components, [[1] * 5] * 7, x, [40] * 7), rtol=1e-5, atol=1e-5)
    # it must matter who survives, or nothing was shown
    assert (own - everyone).abs()[1].max() > 1e-3


def test_rows_of_many_ablations_equal_each_row_alone(unets: list[nn.Module]) -> None:
    x, times = torch.randn(7, 1, 8, 8), torch.tensor([0, 5, 999, 400, 5, 77, 3])
    ensemble = Ensemble(unets, batch=4)
    together = ensemble.ablate(ALIVE)(x, times)
    for row in range(7):
        alone = ensemble.ablate(ALIVE[row])(x[row : row + 1], times[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)
        # the same, its survivors given as a smaller ensemble of just them
        built = Ensemble([c for c, lives in zip(unets, ALIVE[row], strict=True) if lives], batch=4)
        assert torch.equal(alone, built(x[row : row + 1], times[row : row + 1]))


def test_an_ablated_component_is_never_asked() -> None:
    components = [Recorder(1.0), Recorder(float("nan"))]
    ensemble = Ensemble(components).ablate(np.array([True, False]))
    assert torch.equal(ensemble(torch.ones(2, 1, 2, 2), 0), torch.ones(2, 1, 2, 2))
    assert components[1].batches == []


def test_bits_do_not_depend_on_the_rest_of_the_batch(unets: list[nn.Module]) -> None:
    """37 rows of several ablations: shuffled, cut and doubled, each keeps its bits, because batches have one size."""
    rng = np.random.default_rng(0)
    x, alive = torch.randn(37, 1, 8, 8), ALIVE[rng.integers(len(ALIVE), size=37)]
    for batch in (16, 5):
        ensemble = Ensemble(unets, batch=batch)
        everything = ensemble.ablate(alive)(x, 620)
        for size in (37, 36, 17, 16, 3, 1):
            picked = rng.permutation(37)[:size]
            part = ensemble.ablate(alive[picked])(x[picked], 620)
            assert torch.equal(part, everything[picked]), (batch, size)
        twice = ensemble.ablate(np.concatenate([alive, alive]))(torch.cat([x, x]), 620)
        assert torch.equal(twice, torch.cat([everything, everything]))


def test_components_only_see_full_batches() -> None:
    components = [Recorder(1.0), Recorder(2.0)]
    alive = np.array([[True, True]] * 5 + [[True, False]] * 4)
    x = torch.randn(9, 1, 2, 2)
    result = Ensemble(components, batch=4).ablate(alive)(x, torch.arange(9))
    assert components[0].batches == [4, 4, 4]
    assert components[1].batches == [4, 4]
    torch.testing.assert_close(result, by_hand(components, alive, x, list(range(9))))


def test_order_of_components_is_irrelevant(unets: list[nn.Module]) -> None:
    x = torch.randn(7, 1, 8, 8)
    straight = Ensemble(unets).ablate(ALIVE)(x, 500)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        turned = Ensemble([unets[k] for k in order]).ablate(ALIVE[:, order])(x, 500)
        torch.testing.assert_close(turned, straight, rtol=0, atol=1e-6)


def test_no_survivor_is_an_error(unets: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="without a surviving component"):
        Ensemble(unets, np.zeros(5, bool))
    none_in_one_row = ALIVE.copy()
    none_in_one_row[3] = False
    with pytest.raises(ValueError, match="without a surviving component"):
        Ensemble(unets).ablate(none_in_one_row)
    with pytest.raises(ValueError, match="survivors of 4 components given for an ensemble of 5"):
        Ensemble(unets).ablate(np.ones(4, bool))
