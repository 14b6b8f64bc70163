"""A frozen text encoder, a CLIPTextModel and its tokenizer: what a prompt or a caption is to a denoiser.

Each text is encoded alone, on the CPU in float32, so what it becomes depends on that text and on the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._runtime.devices import CPU, computing
from .._runtime.files import read_json
from ..errors import DataError, SettingsError
from .conditions import Text

PART, ROLE = "text_encoder", "text encoder"  # the shared part that holds it
FOLDERS = ("text_encoder", "tokenizer")  # where a pipeline's folder has its parts
ARCHITECTURE = "CLIPTextModel"


class TextEncoder:
    """A frozen text encoder.

    Attributes:
        folder: where it is.
        tokens: how many tokens it takes, its marks for start and end among them.
        width: numbers per token.
    """

    def __init__(self, folder: Path) -> None:
        """Read a folder with `text_encoder` and `tokenizer` in it (a pipeline's), or with the files of both.

        Raises:
            DataError: files are missing, pickled or damaged.
            SettingsError: another architecture, or the package transformers is missing.
        """
        self.folder = Path(folder)
        home, words = (
            self.folder / name if (self.folder / name).is_dir() else self.folder
            for name in ("text_encoder", "tokenizer")
        )
        if not (home / "config.json").is_file() or not (home / "model.safetensors").is_file():
            raise DataError(
                f"{folder} holds no text encoder: it needs config.json and model.safetensors (no pickle) in it or in "
                "text_encoder/, and the tokenizer's files in it or in tokenizer/"
            )
        named = read_json(home / "config.json").get("architectures") or [ARCHITECTURE]
        if named != [ARCHITECTURE]:
            raise SettingsError(f"{home} holds a {named[0]}; a text encoder is a {ARCHITECTURE}")
        try:
            from transformers import CLIPTextModel, CLIPTokenizer
        except ImportError as error:
            raise SettingsError(
                f"prompts need the package transformers ({error}); pip install 'ablatable[transformers]'"
            ) from None
        try:
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(str(words), local_files_only=True)
            with _no_progress():
                model: Any = CLIPTextModel.from_pretrained(
                    str(home), local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
        except Exception as error:  # transformers and safetensors raise many kinds
            raise DataError(
                f"{folder}: the text encoder cannot be read ({' '.join(str(error).split())[:200]})"
            ) from error
        self.model = model.eval().requires_grad_(False)
        self.tokens = min(int(model.config.max_position_embeddings), int(self.tokenizer.model_max_length))
        self.width = int(model.config.hidden_size)

    @property
    def takes(self) -> Text:
        """What components that use it take."""
        return Text(tokens=self.tokens, width=self.width)

    def check(self, text: str, what: str = "the prompt") -> None:
        """`SettingsError` if a text is longer than the encoder takes: nothing is cut off in silence."""
        count = len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        if count > self.tokens:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise SettingsError(
                f"{what} '{shown}' is {count} tokens long, and the text encoder takes {self.tokens} with its marks for "
                "start and end; shorten it"
            )

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """What denoisers attend to: float32 (tokens, width). `SettingsError` if the text is too long."""
        self.check(text)
        marked = self.tokenizer(text, padding="max_length", max_length=self.tokens, return_tensors="pt")
        with computing(CPU):
            return self.model(marked["input_ids"])[0][0].clone()


def load_text_encoder(folder: Path) -> TextEncoder:
    """As `TextEncoder`, read once per process."""
    return _read(str(Path(folder).resolve()), Path(folder).stat().st_mtime_ns)


@contextmanager
def _no_progress() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@lru_cache(maxsize=1)
def _read(folder: str, _time: int) -> TextEncoder:
    return TextEncoder(Path(folder))
