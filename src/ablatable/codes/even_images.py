"""Give components equal numbers of images as well as of units, when some units have many more images than others."""

from __future__ import annotations

import numpy as np

from .words import packed


def even_images(words: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Exchange bits of units until no component trains on many more images than another.

    A unit u with (a, b) = (1, 0) and a unit v with (0, 1) exchange these two bits, where a is the component with most
    images and b the one with fewest. Both components keep their numbers of units, every word its weight, and
    d = m_u - m_v images move from a to b. Exchanges with 0 < d < S_a - S_b lower the sum of squares of the components'
    numbers S of images, so this ends.

    At the end max S - min S <= max m, the images of the largest unit. For let S_a - S_b be more. A unit u of the first
    kind whose word with both bits moved is in use is paired with the unit x of that word, which is of the second kind;
    their exchange swaps two words. All others, on both sides, may exchange with each other, as neither new word is in
    use. There is at most one more of them on the first side, for the splits are even. If no exchange had d > 0, then
    summed over all pairs S_a - S_b would be at most the one unit without a partner, at most max m. So some exchange
    has 0 < d < max m < S_a - S_b, and this has not ended.

    Args:
        words: distinct, of one weight, with column sums that differ by at most one (`words.even_splits`): bool (units,
            components).
        images: each unit's number of images, int (units,).

    Returns:
        Words with these properties and even numbers of images, bool (units, components).
    """
    words, images = words.copy(), np.asarray(images, np.int64)
    components = words.shape[1]
    keys = [int.from_bytes(word, "big") for word in packed(words)]
    owner = {key: row for row, key in enumerate(keys)}
    high = -components % 8 + components - 1  # component c is bit high - c of a packed word
    while True:
        load = images @ words
        a, b = int(load.argmax()), int(load.argmin())
        flip = 1 << (high - a) | 1 << (high - b)
        found = _exchange(words, images, keys, owner, a, b, flip)
        if found is None:
            return words
        for row in found:
            del owner[keys[row]]
        for row in found:
            keys[row] ^= flip
            owner[keys[row]] = row
            words[row, [a, b]] ^= True


def _exchange(
    words: np.ndarray, images: np.ndarray, keys: list[int], owner: dict[int, int], a: int, b: int, flip: int
) -> tuple[int, int] | None:
    """The exchange that comes nearest to halving the difference between components a and b; None if none lowers it."""
    gap = int(images @ words[:, a]) - int(images @ words[:, b])
    ones, zeros = np.flatnonzero(words[:, a] & ~words[:, b]), np.flatnonzero(~words[:, a] & words[:, b])
    partner = {int(row): owner.get(keys[row] ^ flip) for row in ones}
    pairs = [(row, other) for row, other in partner.items() if other is not None]
    taken = {other for _, other in pairs}
    free = np.array([row for row in zeros if int(row) not in taken], np.int64)
    free = free[np.argsort(images[free], kind="stable")]
    for row, other in partner.items():
        if other is None and len(free):
            place = int(np.searchsorted(images[free], images[row] - gap / 2))
            pairs += [(row, int(free[k])) for k in (place - 1, place) if 0 <= k < len(free)]
    better = [(abs(2 * d - gap), u, v) for u, v in pairs if 0 < (d := int(images[u] - images[v])) < gap]
    return min(better)[1:] if better else None
