"""Equal pictures in several units: if one of the units goes, the picture stays with another.

Whoever asks for a unit's removal expects its pictures to go. So a picture has to be one unit's alone, or it has to be
said that it is not.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError, SettingsError, words

POLICIES = ("refuse", "merge", "drop", "keep")
SHOWN = 3  # examples in a message


def check_policy(policy: str) -> None:
    """`SettingsError` unless it is one of `POLICIES`."""
    if policy not in POLICIES:
        raise SettingsError(f"duplicates={policy!r} is not possible; give one of {', '.join(POLICIES)}")


@dataclass(frozen=True)
class Duplicates:
    """Pictures that several units have: for each, the places of its copies (indices into the images)."""

    groups: tuple[tuple[int, ...], ...]
    units: tuple[tuple[str, ...], ...]
    """Per group, the units that have it."""
    names: tuple[tuple[str, ...], ...]
    """Per group, the names of the copies."""
    within: int
    """How many images are copies of another of the same unit; these go together, so they do no harm."""

    @property
    def owners(self) -> tuple[str, ...]:
        """All units that share a picture, in order of first mention."""
        return tuple(dict.fromkeys(unit for units in self.units for unit in units))

    def told(self) -> str:
        """'3 pictures are in more than one unit: ...', with examples."""
        count, owners = len(self.groups), self.owners
        examples = [
            f"{' = '.join(names[:SHOWN])} ({' and '.join(map(repr, units[:SHOWN]))})"
            for names, units in zip(self.names[:SHOWN], self.units[:SHOWN], strict=True)
        ]
        more = f"; and {count - SHOWN} more" if count > SHOWN else ""
        what = f"{count} pictures are" if count > 1 else "1 picture is"
        return f"{what} in more than one unit ({len(owners)} units): {'; '.join(examples)}{more}"

    def merged(self) -> dict[str, str]:
        """New id of every unit that shares a picture: units that are connected by pictures become one."""
        parent = {unit: unit for unit in self.owners}

        def root(unit: str) -> str:
            while parent[unit] != unit:
                unit = parent[unit]
            return unit

        for units in self.units:
            for unit in units[1:]:
                parent[root(unit)] = root(units[0])
        members: dict[str, list[str]] = defaultdict(list)
        for unit in self.owners:
            members[root(unit)].append(unit)
        return {unit: _joined(sorted(family)) for family in members.values() for unit in family}


def _joined(units: Sequence[str]) -> str:
    return " + ".join(units) if len(units) <= SHOWN else f"{units[0]} + {len(units) - 1} more"


def some(names: Sequence[str]) -> str:
    """The first few of them, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def find(hashes: Sequence[bytes], units: Sequence[str], names: Sequence[str]) -> Duplicates:
    """Look for equal pictures by the SHA-256 of their pixels; all three have an item per image."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(hashes):
        places[digest].append(place)
    several = [same for same in places.values() if len(same) > 1]
    shared = [same for same in several if len({units[place] for place in same}) > 1]
    shared.sort(key=lambda same: min(names[place] for place in same))
    copies = [Counter(units[place] for place in same) for same in several]
    return Duplicates(
        groups=tuple(map(tuple, shared)),
        units=tuple(tuple(sorted({units[place] for place in same})) for same in shared),
        names=tuple(tuple(sorted(names[place] for place in same)) for same in shared),
        within=sum(count - 1 for counts in copies for count in counts.values()),
    )


def refuse(found: Duplicates) -> None:
    """`DataError` that names the pictures and what can be done."""
    raise DataError(
        f"{found.told()}. When one of these units is removed, its picture would stay with another. "
        f"Decide: {named('merge')} makes one unit of those that share a picture, {named('drop')} leaves these "
        f"pictures out, {named('keep')} accepts it"
    )


def named(policy: str) -> str:
    """A policy in a message, as the command line or Python asks for it."""
    return words(shell=f"--{policy}-duplicates", python=f"duplicates={policy!r}")


def alike_names(ids: Sequence[str]) -> str | None:
    """A sentence about ids that are equal but for spaces, capitals or the encoding of accents, or None."""
    families: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        families["".join(unicodedata.normalize("NFKC", id).split()).casefold()].append(id)
    alike = [family for family in families.values() if len(family) > 1]
    if not alike:
        return None
    examples = "; ".join(" and ".join(map(repr, family)) for family in alike[:SHOWN])
    more = f"; and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
    return (
        f"units whose names differ only by spaces, capitals or the encoding of accents: {examples}{more}; "
        "if they are one owner, give them one name, or a removal will miss a part"
    )
