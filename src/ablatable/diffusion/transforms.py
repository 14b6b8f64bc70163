"""Codecs without data: orthonormal transforms of blocks of a picture, Haar's and the discrete cosine.

An orthonormal map W keeps distances, and the noise of its coefficients is as normal as that of pixels. So
x_t = sqrt(a) x_0 + sqrt(1-a) eps holds for W x as it does for x, and a network that predicts W eps from W x_t is a
denoiser of pixels with W before and its transpose behind: sampling, clipping and tests stay in pixels. A picture's
coefficients depend on that picture alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingsError, option


def haar_matrix(block: int) -> np.ndarray:
    """Rows are the orthonormal Haar vectors of length `block`, a power of two; float64 (block, block)."""
    made = np.ones((1, 1))
    while len(made) < block:
        smooth, detail = np.kron(made, [1, 1]), np.kron(np.eye(len(made)), [1, -1])
        made = np.concatenate([smooth, detail]) / math.sqrt(2)
    return made


def dct_matrix(block: int) -> np.ndarray:
    """Rows are the orthonormal vectors of the discrete cosine transform (DCT-II); float64 (block, block)."""
    k, n = np.arange(block)[:, None], np.arange(block)[None]
    made = np.cos(np.pi * (2 * n + 1) * k / (2 * block)) * math.sqrt(2 / block)
    made[0] /= math.sqrt(2)
    return made


MATRICES = {"haar": haar_matrix, "dct": dct_matrix}


class BlockTransform:
    """(B, C, H, W) -> (B, C block^2, H/block, W/block): each block's coefficients, of rows and columns, and back."""

    def __init__(self, name: str, block: int) -> None:
        """`name`: `haar` or `dct`."""
        self.name, self.block = name, block
        self.matrix = torch.from_numpy(MATRICES[name](block))

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the coefficients of pictures of `shape`; `SettingsError` unless blocks fill them."""
        channels, height, width = shape
        if height % self.block or width % self.block:
            raise SettingsError(
                f"the codec {self.name} has blocks of {self.block} x {self.block} pixels, which do not fill pictures "
                f"of {height} x {width}; choose another {option('size')}"
            )
        return channels * self.block**2, height // self.block, width // self.block

    def encode(self, x: Tensor) -> Tensor:
        """Coefficients of pictures (B, C, H, W)."""
        (rows, channels, height, width), b = x.shape, self.block
        blocks = x.reshape(rows, channels, height // b, b, width // b, b)
        m = self.matrix.to(x.device, x.dtype)
        return torch.einsum("bchiwj,ki,lj->bcklhw", blocks, m, m).reshape(rows, -1, height // b, width // b)

    def decode(self, y: Tensor) -> Tensor:
        """Pictures of coefficients, the inverse of `encode`."""
        (rows, channels, height, width), b = y.shape, self.block
        blocks = y.reshape(rows, channels // b**2, b, b, height, width)
        m = self.matrix.to(y.device, y.dtype)
        pixels = torch.einsum("bcklhw,ki,lj->bchiwj", blocks, m, m)
        return pixels.reshape(rows, channels // b**2, height * b, width * b)
