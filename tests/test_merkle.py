"""Commitments and proofs: against RFC 6962's recursion written out anew, by exhaustion, and against tampering."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from itertools import combinations

import pytest

from ablatable._runtime import merkle


def h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def name(number: int) -> str:
    """A hash whose order is the number's."""
    return f"{number:064x}"


def root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it stands there."""
    if not leaves:
        return h(b"")
    if len(leaves) == 1:
        return h(b"\x00" + leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return h(b"\x01" + root(leaves[:k]) + root(leaves[k:]))


@pytest.mark.parametrize("size", range(10))
def test_every_member_and_every_gap(size: int) -> None:
    members = [name(10 * k + 10) for k in range(size)]
    commitment = merkle.commit(reversed(members))
    tree = root([bytes.fromhex(member) for member in members])
    assert commitment == h(b"\x02" + size.to_bytes(8, "big") + tree).hex()
    for number in range(10 * size + 20):
        proof = merkle.prove(members, name(number))
        assert merkle.check(commitment, name(number), proof) is (name(number) in members)
        assert len(proof["leaves"]) <= 2
        for other in (number - 10, number + 10, number + 1):  # shown for one hash, a proof says nothing of most others
            if other >= 0:
                assert merkle.check(commitment, name(other), proof) in (None, name(other) in members)
        assert merkle.check(name(5), name(number), proof) is None


def test_no_leaves_put_together_prove_what_is_false() -> None:
    """Of all honest leaves of a tree, no choice of two or fewer, in any order, with any size, hides a member."""
    members = [name(10 * k + 10) for k in range(6)]
    commitment = merkle.commit(members)
    leaves = [merkle.prove(members, member)["leaves"][0] for member in members]
    choices = [[], *([leaf] for leaf in leaves), *map(list, combinations(leaves, 2))]
    choices += [choice[::-1] for choice in choices if len(choice) == 2]
    for choice in choices:
        for size in range(9):
            proof = {"size": size, "leaves": choice}
            assert not any(merkle.check(commitment, member, proof) is False for member in members)
            assert not any(merkle.check(commitment, name(k), proof) is True for k in range(70) if k % 10)


def every_change(value, path=()):
    """Paths to every scalar of nested lists and dicts."""
    if isinstance(value, dict):
        for key in value:
            yield from every_change(value[key], (*path, key))
    elif isinstance(value, list):
        for key in range(len(value)):
            yield from every_change(value[key], (*path, key))
    else:
        yield path


def test_any_change_of_a_proof_voids_it() -> None:
    members = [name(10 * k + 10) for k in range(7)]
    commitment = merkle.commit(members)
    for number in (0, 20, 35, 99):
        proof = merkle.prove(members, name(number))
        for path in every_change(proof):
            changed = copy.deepcopy(proof)
            at = changed
            for key in path[:-1]:
                at = at[key]
            old = at[path[-1]]
            at[path[-1]] = old + 1 if isinstance(old, int) else format(int(old, 16) ^ 1, "064x")
            assert merkle.check(commitment, name(number), changed) is None, path
        for broken in ({}, {"size": 7}, {"size": "x", "leaves": []}, {"size": 7, "leaves": [{"index": 0}]}):
            assert merkle.check(commitment, name(number), broken) is None
    assert merkle.check(commitment, "not a hash", merkle.prove(members, name(0))) is None


def test_equal_members() -> None:
    members = [name(3), name(3), name(5)]
    assert merkle.check(merkle.commit(members), name(3), merkle.prove(members, name(3))) is True
    assert merkle.check(merkle.commit(members), name(4), merkle.prove(members, name(4))) is False


def test_the_checker_stands_alone() -> None:
    """An auditor may copy the file: it imports the standard library alone."""
    script = (
        "import runpy, sys; before = set(sys.modules); m = runpy.run_path(sys.argv[1]); "
        "assert not [n for n in set(sys.modules) - before if n.startswith(('ablatable', 'numpy', 'torch'))]; "
        "assert m['check'](m['commit']([]), 'ab' * 32, m['prove']([], 'ab' * 32)) is False"
    )
    subprocess.run([sys.executable, "-c", script, merkle.__file__], check=True)
