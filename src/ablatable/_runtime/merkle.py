"""Commitments to sets of hashes, and proofs that a hash is in one or is not, which disclose two members at most.

The members, SHA-256 hashes in hex, are sorted and become the leaves of a binary tree (as in RFC 6962: a tree of n
leaves has the largest power of two below n on its left). The commitment is the hash of the tree's root *and* of the
number of leaves, so that a proof for the last leaf shows that nothing follows it. Non-membership is two neighbouring
leaves with the hash between them, or the first or last leaf with the hash outside it.

`check` is all that an auditor has to read, or to write again: it needs nothing but `hashlib` and the four short
functions `_leaf`, `_node`, `_commitment` and `_climb`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any


def check(commitment: str, member: str, proof: dict[str, Any]) -> bool | None:
    """True if the proof shows that `member` is in the committed set, False if it shows that it is not, else None.

    Args:
        commitment: SHA-256 in hex.
        member: SHA-256 in hex.
        proof: `{"size": n, "leaves": [{"index": k, "leaf": hex, "path": [hex, ..]}, ..]}`, one leaf or two.
    """
    try:
        size, leaves, wanted = int(proof["size"]), list(proof["leaves"]), _hash(member)
        if size == 0:
            return False if not leaves and commitment == _commitment(0, hashlib.sha256().digest()) else None
        values, places = [_hash(leaf["leaf"]) for leaf in leaves], [leaf["index"] for leaf in leaves]
        paths = [[_hash(node) for node in leaf["path"]] for leaf in leaves]
        climbs = zip(places, values, paths, strict=True)
        roots = [_climb(place, size, value, path) for place, value, path in climbs]
    except (KeyError, TypeError, ValueError):
        return None
    if any(commitment != _commitment(size, root) for root in roots):
        return None
    if values == [wanted]:
        return True
    before = places == [0] and wanted < values[0]
    after = places == [size - 1] and values[0] < wanted
    between = len(places) == 2 and places[1] == places[0] + 1 and values[0] < wanted < values[1]
    return False if before or after or between else None


def commit(members: Iterable[str]) -> str:
    """The commitment to a set of SHA-256 hashes (hex), whatever their order; a hash may be in it several times."""
    leaves = _sorted(members)
    return _commitment(len(leaves), _root(leaves))


def prove(members: Iterable[str], member: str) -> dict[str, Any]:
    """A proof, for `check`, that `member` is among these, or that it is not, whichever is the case."""
    leaves, wanted = _sorted(members), _hash(member)
    place = bisect_left(leaves, wanted)
    if place < len(leaves) and leaves[place] == wanted:
        shown = [place]
    else:
        shown = [index for index in (place - 1, place) if 0 <= index < len(leaves)]
    return {
        "size": len(leaves),
        "leaves": [
            {"index": index, "leaf": leaves[index].hex(), "path": [node.hex() for node in _path(leaves, index)]}
            for index in shown
        ],
    }


# Leaves, nodes and commitments are hashed under different first bytes, so that none can be taken for another.


def _leaf(value: bytes) -> bytes:
    return hashlib.sha256(b"\0" + value).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _commitment(size: int, root: bytes) -> str:
    return hashlib.sha256(b"\2" + size.to_bytes(8, "big") + root).hexdigest()


def _climb(index: int, size: int, value: bytes, path: Sequence[bytes]) -> bytes:
    """The root that a leaf and its path (leaf first) lead to; ValueError for a path of the wrong length."""
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    if size == 1:
        if path:
            raise ValueError("a path too long")
        return _leaf(value)
    half = 1 << ((size - 1).bit_length() - 1)
    if not path:
        raise ValueError("a path too short")
    if index < half:
        return _node(_climb(index, half, value, path[:-1]), path[-1])
    return _node(path[-1], _climb(index - half, size - half, value, path[:-1]))


def _root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return _leaf(leaves[0])
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return _node(_root(leaves[:half]), _root(leaves[half:]))


def _path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The neighbours' hashes on the way from a leaf to the root."""
    if len(leaves) == 1:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*_path(leaves[:half], index), _root(leaves[half:])]
    return [*_path(leaves[half:], index - half), _root(leaves[:half])]


def _hash(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise ValueError("not a SHA-256 in hex")
    return value


def _sorted(members: Iterable[str]) -> list[bytes]:
    return sorted(map(_hash, members))
