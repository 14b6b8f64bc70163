"""A Stable-Diffusion-like pipeline of a few thousand random weights, with a tokenizer that spells; no hub."""

from __future__ import annotations

import json
from pathlib import Path

TOKENS, WIDTH = 16, 8
SCHEDULER = {"clip_sample": False, "timestep_spacing": "leading", "steps_offset": 0}
START, END = "<|startoftext|>", "<|endoftext|>"


def letters() -> list[str]:
    """CLIP's 256 characters for bytes, in its order: printable ones as they are, the others above 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + number) for number in range(len(rest)))]


def write_text_encoder(folder: Path, *, tokens: int = TOKENS, width: int = WIDTH) -> Path:
    """`text_encoder/` and `tokenizer/` in a folder, as a pipeline of diffusers has them; a letter is a token."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = [*letters(), *(f"{letter}</w>" for letter in letters()), START, END]
    spelling = folder / "spelling"
    spelling.mkdir(parents=True)
    (spelling / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (spelling / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(spelling / "vocab.json"), str(spelling / "merges.txt"), model_max_length=tokens)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=tokens, bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    for file in spelling.iterdir():
        file.unlink()
    spelling.rmdir()
    return folder


def write_text_pipeline(folder: Path, seed: int, *, side: int = 8, channels: int = 3, text: bool = True) -> Path:
    """`unet/`, which attends to a prompt, `scheduler/`, and with `text` what `write_text_encoder` writes."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    diffusers.UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=(8, 8), norm_num_groups=4,
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH, attention_head_dim=4,
    ).save_pretrained(folder / "unet")  # fmt: skip
    diffusers.DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    return write_text_encoder(folder) if text else folder
