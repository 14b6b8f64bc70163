"""A latent ensemble at 64 x 64: an autoencoder that saw no unit, components on its latents, and their universe.

    npm pack openmoji@17.0.0
    python bench/latents.py train --package openmoji-17.0.0.tgz      resumable, one process
    python bench/latents.py tables                                    print what it gives back, draws and shows
    python bench/latents.py pictures                                  latents.png, into docs/images

All goes to --out (default bench/out/latents). The drawings are OpenMoji's, rendered at 64 x 64 by
scripts/make_openmoji.py. Units are 8 designers with 12 drawings each. The autoencoder, an `AutoencoderTiny` that makes
4 x 16 x 16 latents, trains on the drawings of all other designers and on nothing else. Its `scaling_factor` is 1 over
the standard deviation of those drawings' latents. Costs are CPU seconds of this process, which has one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable.analysis.nearest import nearest_units
from ablatable.analysis.sample_quality import judge
from ablatable.analysis.witness import witness_pictures
from ablatable.data.units import to_model
from ablatable.runs.codecs import ROLE

ROOT = Path(__file__).parents[1]
SIDE, ARTISTS, DRAWINGS, COMPONENTS = 64, 8, 12, 8
SAMPLES, SAMPLING = range(12), ab.Sampling("dpmsolver++", 15)
HERE = ab.Execution(workers=0, device="cpu")
STATEMENT = "trained on OpenMoji drawings by designers who are no units, and on nothing else"


def data(package: Path | None, out: Path) -> tuple[ab.Units, np.ndarray]:
    """The units, and everybody else's drawings, uint8 (N, 64, 64, 3); rendered once."""
    place = out / "drawings.npz"
    if not place.exists():
        if package is None:
            sys.exit("give --package openmoji-17.0.0.tgz, from npm pack openmoji@17.0.0")
        sys.path.insert(0, str(ROOT / "scripts"))
        import make_openmoji as source

        entries, pictures = source.drawings(package, SIDE)
        kept = source.without_copies(entries, pictures)
        out.mkdir(parents=True, exist_ok=True)
        artists = np.array([source.artist(entries[k]) for k in kept])
        np.savez_compressed(place, images=np.stack([pictures[k] for k in kept]), artists=artists)
    held = np.load(place)
    images, artists = held["images"], held["artists"]
    large = [artist for artist in sorted(set(artists)) if (artists == artist).sum() >= DRAWINGS]
    chosen = sorted(large[k] for k in generator("latents", 0).permutation(len(large))[:ARTISTS])
    own = np.concatenate([images[artists == artist][:DRAWINGS] for artist in chosen])
    units = ab.Units(tuple(chosen), own, np.repeat(np.arange(ARTISTS), DRAWINGS))
    return units, images[~np.isin(artists, chosen)]


def autoencoder(others: np.ndarray, out: Path, steps: int) -> Path:
    """Train the autoencoder, once, on these pictures; its folder, in diffusers' format."""
    folder = out / "codec"
    if folder.exists():
        return folder
    began = time.process_time()
    torch.manual_seed(0)
    layers = {"encoder_block_out_channels": (24, 24, 24), "decoder_block_out_channels": (24, 24, 24)}
    model = AutoencoderTiny(**layers, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), latent_channels=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng, recent = generator("latents: autoencoder", 0), []
    for step in range(steps):
        pictures = to_model(others[rng.integers(0, len(others), 16)])
        with torch.autocast("cpu", torch.bfloat16):
            given = model.decode(model.encode(pictures).latents).sample
        loss = (given.float() - pictures).square().mean() + 0.2 * (given.float() - pictures).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        recent.append(float(loss.detach()))
        if step % 100 == 99:
            print(f"autoencoder: step {step + 1}, loss {np.mean(recent[-100:]):.4f}", flush=True)
    with torch.no_grad():
        latents = torch.cat([model.encode(to_model(others[k : k + 1])).latents for k in range(0, len(others), 8)])
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    seconds = time.process_time() - began
    model.save_pretrained(folder)
    (out / "autoencoder.json").write_text(json.dumps({"steps": steps, "seconds": seconds, "drawings": len(others)}))
    print(f"autoencoder: {seconds:.0f} CPU seconds", flush=True)
    return folder


def train(package: Path | None, out: Path, steps: int, codec_steps: int) -> None:
    """Train whatever is not there yet, and draw the universe."""
    units, others = data(package, out)
    codec = ab.SharedPart("codec", ROLE, autoencoder(others, out, codec_steps), STATEMENT)
    recipe = ab.preset("colour", steps=steps, precision="bf16")
    code, began = ab.Code.random(ARTISTS, COMPONENTS, 0), time.process_time()
    run = ab.train(units, code, recipe, out=out / "run", execution=HERE, shared=[codec])
    print(f"components: {time.process_time() - began:.0f} CPU seconds", flush=True)
    ab.enumerate_universe(run, SAMPLES, out=out / "u.zarr", sampling=SAMPLING, spares=4, execution=HERE)
    print(f"with the universe: {time.process_time() - began:.0f} CPU seconds", flush=True)


def error(run: ab.Run, images: np.ndarray) -> tuple[float, float]:
    """Of what comes back: root mean square in levels of 255, and PSNR in dB."""
    away = back(run, images).astype(float) - images
    rms = float(np.sqrt(np.square(away).mean()))
    return rms, float(20 * np.log10(255 / rms))


def back(run: ab.Run, images: np.ndarray) -> np.ndarray:
    """Pictures, encoded and decoded: uint8 (N, H, W, C)."""
    from ablatable.data.units import to_images

    assert run.codec is not None
    return to_images(run.codec.decode(run.codec.encode(images)))


def tables(out: Path) -> None:
    """Print the autoencoder's hash, what it gives back, and what the ensemble draws and shows."""
    units, others = data(None, out)
    run, universe = ab.Run(out / "run"), ab.Universe.open(out / "u.zarr")
    part = run.shared.records[0]
    print(f"{part.role} '{part.name}': SHA-256 {part.sha256}; {part.statement}")
    print((out / "autoencoder.json").read_text())
    for name, images in (("its own training drawings", others[:: len(others) // 96][:96]), ("units", units.images)):
        rms, psnr = error(run, images)
        print(f"reconstruction of {name}: root mean square {rms:.1f} of 255, PSNR {psnr:.1f} dB")
    found = judge(universe.factual, units.images)
    p = witness_pictures(run, universe.factual, universe.seeds).nearest_p
    near = nearest_units(universe)
    print(f"samples: nearest {np.median(found.distance):.2f}, broken {found.broken.mean():.0%}")
    print(f"nearest designer recognised (p <= .05) in {(p <= 0.05).sum()} of {len(p)}")
    spares = near.changed_spares.mean()
    print(f"nearest designer changes when removed: {near.changed.sum()} of {len(p)}; under spares {spares:.2f}")


def pictures(out: Path) -> None:
    """Drawings, what the autoencoder gives back, samples, and samples without their nearest designer."""
    run, universe = ab.Run(out / "run"), ab.Universe.open(out / "u.zarr")
    shown = list(range(10))
    own = run.units().images[:: DRAWINGS - 3][:10]
    near = witness_pictures(run, universe.factual, universe.seeds).nearest
    without = [universe.counterfactual(universe.unit_ids[near[k]])[k] for k in shown]
    rows = {"drawings of units": own, "encoded and decoded": back(run, own), "samples": universe.factual[shown]}
    rows["without their\nnearest designer"] = np.stack(without)
    mpl.rcParams["font.size"] = 8
    figure, axes = plt.subplots(len(rows), len(shown), figsize=(10, 4.3))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    figure.tight_layout(h_pad=0.4, w_pad=0.3)
    place = ROOT / "docs" / "images" / "latents.png"
    figure.savefig(place, dpi=110)
    print(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "tables", "pictures"])
    parser.add_argument("--package", type=Path, help="openmoji-17.0.0.tgz")
    parser.add_argument("--steps", type=int, default=400, help="of each component")
    parser.add_argument("--codec-steps", type=int, default=600, help="of the autoencoder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "latents")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "train":
        train(given.package, given.out, given.steps, given.codec_steps)
    else:
        {"tables": tables, "pictures": pictures}[given.what](given.out)


if __name__ == "__main__":
    main()
