"""A small text-to-image pipeline in the layout of Stable Diffusion, made and trained here: no download.

    python examples/small_pipeline.py stand-in

It has the same parts (an `AutoencoderKL`, a `CLIPTextModel` with its tokenizer, a `UNet2DConditionModel`, a scheduler)
with a few hundred thousand weights in all, and draws 32 x 32 pixels. It trains on OpenMoji drawings and their captions,
except for those by the six designers with most drawings: they are the artists of docs/how-to/stable-diffusion.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import ablatable as ab

ARTISTS, SIDE, TOKENS, WIDTH, BATCH = 6, 32, 32, 48, 16
START, END = "<|startoftext|>", "<|endoftext|>"


def drawings() -> tuple[Tensor, list[str]]:
    """Drawings by everybody but the artists, float32 (N, 3, 32, 32) in [-1, 1], and their captions."""
    every, artists = ab.Units.openmoji(caption_column="annotation"), ab.Units.openmoji(ARTISTS).ids
    others = every.without(artists)
    return torch.from_numpy(others.images.copy()).permute(0, 3, 1, 2) / 127.5 - 1, list(others.captions or ())


def tokenizer_of(captions: list[str], folder: Path) -> CLIPTokenizer:
    """CLIP's kind of tokenizer (byte pairs), with the pairs that these captions have most."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=800, end_of_word_suffix="</w>"))
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in plain] + [chr(256 + k) for k in range(256 - len(plain))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(dict.fromkeys(words))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def train_autoencoder(pictures: Tensor, steps: int) -> AutoencoderKL:
    """4 x 16 x 16 latents; what they are multiplied by is 1 over their standard deviation over these pictures."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, mid_block_add_attention=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    for _ in range(steps):
        batch = pictures[torch.randint(len(pictures), (BATCH,))]
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(batch).latent_dist
            back = vae.decode(latents.sample()).sample
        loss = (back.float() - batch).square().mean() + 1e-4 * latents.kl().float().mean() / 1024
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    with torch.no_grad():
        vae.register_to_config(scaling_factor=float(1 / vae.encode(pictures[:256]).latent_dist.mode().std()))
    return vae


def train_denoiser(
    latents: Tensor, ids: Tensor, empty: Tensor, text: CLIPTextModel, unet: UNet2DConditionModel,
    scheduler: DDIMScheduler, steps: int,
) -> None:  # fmt: skip
    """The denoiser and the text encoder together; one caption in ten is left out, for guidance."""
    weights = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    for _ in range(steps):
        rows, t = torch.randint(len(latents), (2 * BATCH,)), torch.randint(1000, (2 * BATCH,))
        noise = torch.randn(2 * BATCH, *latents.shape[1:])
        said = torch.where(torch.rand(2 * BATCH, 1) < 0.1, empty, ids[rows])
        with torch.autocast("cpu", torch.bfloat16):
            x = scheduler.add_noise(latents[rows], noise, t)
            predicted = unet(x, t, text(said)[0]).sample
        loss = (predicted.float() - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rate.step()


def make(folder: Path, autoencoder_steps: int, steps: int) -> None:
    """Train all parts and save the pipeline, as diffusers does."""
    torch.manual_seed(0)
    pictures, captions = drawings()
    with TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(captions, Path(scratch))
    last = len(tokenizer) - 1
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=last - 1, eos_token_id=last,
            pad_token_id=last,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    marked = tokenizer(["", *captions], padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    vae = train_autoencoder(pictures, autoencoder_steps)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(64)])
    train_denoiser(latents * vae.config.scaling_factor, marked[1:], marked[0], text, unet, scheduler, steps)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text.eval(), tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    weights = sum(weight.numel() for part in (vae, text, unet) for weight in part.parameters())
    print(f"{folder}: {weights:,} weights, {len(pictures)} drawings, {time.process_time():.0f} CPU seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pipeline goes")
    parser.add_argument("--autoencoder-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1200)
    given = parser.parse_args()
    make(given.folder, given.autoencoder_steps, given.steps)


if __name__ == "__main__":
    main()
