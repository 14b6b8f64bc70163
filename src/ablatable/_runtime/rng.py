"""Stateless randomness: every random number is a pure function of a key, never of what was drawn before.

A key such as `("noise", seed, step)` is hashed to the 128-bit key of a counter-based generator (Philox). Hence any
draw can be had without the earlier ones, in any process, in any order: resuming a run needs no random state, and
one component's or one sample's randomness cannot depend on its neighbours'.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: str | int) -> np.random.Generator:
    """A NumPy generator that depends on `key` alone. Ints and strings of equal text are different keys."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def torch_seed(*key: str | int) -> int:
    """A 63-bit seed for APIs that want an integer, such as `torch.manual_seed`."""
    return int(generator(*key).integers(2**63))
