"""Ablation based counterfactuals in plain PyTorch: the whole method on 24 real digits, in about half a minute.

An ensemble is trained so that every training image can be removed from it exactly. Then: what does the same noise
become without an image? Z. Dai and D. K. Gifford, arXiv 2406.07908. Run it with `python examples/minimal.py`;
it prints what it finds and writes minimal.png.
"""

import gzip
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

UNITS, COMPONENTS, WEIGHT, SIDE = 24, 8, 4, 14
TRAIN_STEPS, BATCH, DRAW_STEPS, T = 800, 48, 50, 1000
DIGITS = Path(__file__).parent.parent / "src/ablatable/data/assets/digits-images-idx3-ubyte.gz"

# The noise schedule: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. Linear betas; float64 (T,)
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), 0)


def load_digits(count: int) -> Tensor:
    """Real MNIST digits in [-1, 1]: float32 (count, 1, 14, 14)."""
    pixels = torch.frombuffer(bytearray(gzip.decompress(DIGITS.read_bytes())[16:]), dtype=torch.uint8)
    return nn.functional.avg_pool2d(pixels.view(-1, 1, 28, 28)[:count] / 127.5 - 1, 28 // SIDE)


def codewords() -> tuple[Tensor, Tensor]:
    """Codewords (bit i: does component i train on the unit?) for all units, and the spares, which no unit has."""
    ones = combinations(range(COMPONENTS), WEIGHT)
    words = torch.tensor([[i in chosen for i in range(COMPONENTS)] for chosen in ones])
    words = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))]
    return words[:UNITS], words[UNITS:]


class Denoiser(nn.Module):
    """(x_t (B, 1, 14, 14), t (B,) or int) -> predicted noise. A plain network; any other would do."""

    def __init__(self, width: int = 256, narrow: int = 32) -> None:
        super().__init__()
        self.enter, self.time = nn.Linear(SIDE**2, width), nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.narrow, self.leave = nn.Linear(width, narrow), nn.Linear(narrow, SIDE**2)  # noise does not fit through

    def clean(self, x: Tensor, t: Tensor | int) -> Tensor:
        """The image x_0 that the network sees behind the noise."""
        phases = torch.as_tensor(t).view(-1, 1) * 0.75 ** torch.arange(1, 33)  # from fast to slow
        h = self.enter(x.flatten(1)) + self.time(torch.cat([phases.sin(), phases.cos()], 1).to(x.dtype))
        for layer in self.layers:
            h = h + layer(nn.functional.silu(h))
        return self.leave(nn.functional.silu(self.narrow(nn.functional.silu(h)))).view_as(x)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        abar = ABAR[t].to(x.dtype).view(-1, 1, 1, 1)
        return (x - abar.sqrt() * self.clean(x, t)) / (1 - abar).sqrt()


def train(split: Tensor, component: int) -> Denoiser:
    """Fit one component to its split. Nothing else reaches it: not even the random numbers of another component."""
    torch.manual_seed(component)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TRAIN_STEPS)
    for _ in range(TRAIN_STEPS):
        x0, t = split[torch.randint(len(split), (BATCH,))], torch.randint(T, (BATCH,))
        noise, abar = torch.randn_like(x0), ABAR[t].float().view(-1, 1, 1, 1)
        error = model.clean(abar.sqrt() * x0 + (1 - abar).sqrt() * noise, t) - x0
        loss = ((1 / (1 - abar)).clamp(max=6) * error.square()).mean()  # weighs all noise levels about equally
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return model.eval()


@torch.no_grad()
def draw(components: list, survivors: Tensor, noise: Tensor) -> Tensor:
    """Ancestral sampling with the mean of the survivors; `noise` is the trajectory, (steps + 1, B, C, H, W)."""
    alive = [component for component, survives in zip(components, survivors, strict=True) if survives]
    steps, x = len(noise) - 1, noise[0]
    for k in range(1, steps + 1):
        t, before = (steps - k) * (T // steps), (steps - k - 1) * (T // steps)
        a, b = ABAR[t], ABAR[before] if before >= 0 else torch.tensor(1.0)  # abar at t, and one step later
        eps = sum(component(x, t) for component in alive) / len(alive)  # the ensemble
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        x = b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise[k]
    return x


def main() -> None:
    """Code, splits, components, factual samples, counterfactuals, and what they show."""
    digits = load_digits(UNITS)
    code, spares = codewords()
    components = [train(digits[code[:, i]], i) for i in range(COMPONENTS)]  # component i sees the units with bit i

    noise = torch.randn(DRAW_STEPS + 1, 8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    factual = draw(components, torch.ones(COMPONENTS, dtype=torch.bool), noise)
    without = torch.stack([draw(components, ~word, noise) for word in code])  # (units, samples, 1, 14, 14)
    control = torch.stack([draw(components, ~word, noise) for word in spares])

    radius = (without - factual).flatten(2).norm(dim=2).amax(0)
    control_radius = (control - factual).flatten(2).norm(dim=2).amax(0)
    nearest = torch.cdist(factual.flatten(1), digits.flatten(1)).argmin(1)
    for s, unit in enumerate(nearest.tolist()):
        again = int((without[unit, s] - digits).flatten(1).norm(dim=1).argmin())
        print(
            f"sample {s}: radius {radius[s]:.1f}, under spares {control_radius[s]:.1f}; "
            f"nearest digit: {unit}, without it: {again}"
        )
    rows = [factual, digits[nearest], without[nearest, range(len(nearest))], control[0]]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)[0]
    levels = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    Image.fromarray(levels).resize((levels.shape[1] * 4, levels.shape[0] * 4), Image.Resampling.NEAREST).save(
        "minimal.png"
    )


if __name__ == "__main__":
    main()
