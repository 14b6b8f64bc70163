"""`config.json` of a CTF archive, and the limits within which an archive is written and read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BUFFER = 2**26  # bytes of images held in memory together
MOST_PIXELS = 2**26  # in one PNG: 67 million
MOST_UNITS = 100_000


class Config(BaseModel):
    """`config.json`. Keys that nobody knows are ignored, as other programs may write more."""

    model_config = ConfigDict(frozen=True)

    Format: str = Field(max_length=100)
    TrainingUnits: int = Field(ge=1, le=MOST_UNITS, strict=True)
    NumberGenerated: int = Field(ge=1, le=1_000_000, strict=True)
    TrainHeight: int = Field(ge=1, le=65_536, strict=True)
    TrainWidth: int = Field(ge=1, le=65_536, strict=True)
    TrainChannel: Literal[1, 3]
    GenHeight: int = Field(ge=1, le=65_536, strict=True)
    GenWidth: int = Field(ge=1, le=65_536, strict=True)
    GenChannel: Literal[1, 3]
    UnitIds: tuple[str, ...] | None = None  # ours: ids do not fit into the rest of a ONEFILE archive
    Seeds: tuple[int, ...] | None = None  # ours

    @model_validator(mode="after")
    def _check(self) -> Config:
        for name, values, count in (
            ("UnitIds", self.UnitIds, self.TrainingUnits),
            ("Seeds", self.Seeds, self.NumberGenerated),
        ):
            if values is not None and not len(values) == len(set(values)) == count:
                raise ValueError(f"{name} must be {count} different values")
        return self

    @property
    def one_file(self) -> bool:
        """Whether all training images are in one PNG, one a unit."""
        return self.Format == "ONEFILE"

    @property
    def picture(self) -> tuple[int, int, int]:
        """A generated image's (H, W, C)."""
        return self.GenHeight, self.GenWidth, self.GenChannel

    @property
    def training(self) -> tuple[int, int, int]:
        """A training image's (H, W, C)."""
        return self.TrainHeight, self.TrainWidth, self.TrainChannel
