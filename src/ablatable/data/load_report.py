"""What was loaded: how many pictures and units, what was done to them, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .images import CONVERSIONS


@dataclass(frozen=True)
class LoadReport:
    """What a source gave. It says nothing that training could depend on; runs keep it in their log.

    converted: what was done to pictures (see `images.CONVERSIONS`) -> to how many.
    skipped: what was passed over -> how many.
    remarks: sentences on what the user may want to know: equal pictures, names that are nearly the same.
    """

    source: str
    images: int
    units: int
    unit_is: str
    """What makes a unit, as in 'each sub-folder was taken as a unit'."""
    shape: tuple[int, int, int]
    """(C, H, W)."""
    background: str
    channels_given: bool
    """Whether the channels were asked for; otherwise they are those that all pictures have."""
    duplicates: str
    skip_broken: bool
    converted: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    shared: str | None = None
    """A sentence on pictures that are in more than one unit; None if there were none."""
    names: tuple[str, ...] = field(default=(), repr=False)
    """Each image's name in messages, in their order; not among what is recorded."""

    def sentence(self) -> str:
        """As in '640 images, 32 units, 16 x 16 colour, transparency on white; skipped: 3 .heic'.

        `16 x 16, all in colour` says that no channels were asked for, and that all images have these.
        """
        channels, height, width = self.shape
        colours = {1: " grey", 3: " colour"} if self.channels_given else {1: ", all grey", 3: ", all in colour"}
        parts = [
            f"{self.images:,} image{'s' * (self.images != 1)}",
            f"{self.units:,} unit{'s' * (self.units != 1)}",
            f"{height} x {width}{colours[channels]}",
        ]
        for what, count in self.converted.items():
            told = CONVERSIONS[what] + (f" on {self.background}" if what == "transparent" else "")
            parts.append(told if count == self.images else f"{told} ({count:,})")
        skipped = dict(self.skipped) | ({"broken": len(self.broken)} if self.broken else {})
        told = ", ".join(f"{count:,} {what}" for what, count in skipped.items())
        return ", ".join(parts) + (f"; skipped: {told}" if told else "")

    def lines(self) -> list[str]:
        """The sentence, then the remarks."""
        return [self.sentence(), *([self.shared] if self.shared else []), *self.remarks]

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        told = {**asdict(self), "shape": list(self.shape), "broken": list(self.broken), "remarks": list(self.remarks)}
        del told["names"]
        return told
