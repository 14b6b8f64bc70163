"""A certificate of removal in plain text, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runs.shared import relative_to

if TYPE_CHECKING:
    from .certificate import Certificate


def render_certificate(certificate: Certificate) -> str:
    """The certificate in plain text."""
    c = certificate
    lines = ["CERTIFICATE OF REMOVAL", "", f"issued        {c.time}"]
    if c.requested_by:
        lines.append(f"requested by  {c.requested_by}")
    lines += [f"certificate   {c.sha256}", f"signed with   {c.signature.public_key if c.signature else '(not signed)'}"]
    lines += ["", f"Removed {len(c.units)} unit{'s' * (len(c.units) != 1)}:"]
    for unit in c.units:
        lines += [f"  {unit.unit or '(id kept as a hash)'}", f"    id       {unit.unit_sha256}"]
        lines += [f"    content  {unit.content_sha256}", f"    seen by  {_numbers(unit.codeword)}"]
    lines += ["", f"Ablated, and not in the new run:  {', '.join(c.ablated) or 'none'}"]
    lines += [f"Surviving, weights unchanged:     {', '.join(c.survivors)}", ""]
    lines += [f"run before  {c.before.run_sha256}", f"run after   {c.after.run_sha256}", ""]
    lines.append("Weights of the survivors (SHA-256):")
    lines += [f"  {number}  {digest}" for number, digest in c.after.weights_sha256.items()]
    lines += ["", f"{sum(map(len, c.proofs.values()))} proofs that no survivor's split holds a removed unit's content."]
    lines += [*([c.claimed] if c.claimed else []), *relative_to(c.shared)]
    lines.append("Made with " + ", ".join(f"{name} {version}" for name, version in sorted(c.environment.items())) + ".")
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """A line with control characters written out: an id must not be able to rewrite the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _numbers(codeword: str) -> str:
    return ", ".join(f"{number:02d}" for number, bit in enumerate(codeword) if bit == "1") or "no component"
