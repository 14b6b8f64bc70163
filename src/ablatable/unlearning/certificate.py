"""Certificates of removal: what was asked for, what was ablated, what is left, and proof that it never saw the units.

A certificate is JSON. Its `sha256` is over all its other fields but the signature; an Ed25519 signature, if there is
one, is over everything else. Without a signature, whoever can rewrite the file can also hash it again, so that only
what the run itself confirms is certain: `check` compares every such field with the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from .._runtime import merkle
from .._runtime.files import canonical_json, json_hash, read_json, write_atomic
from .._runtime.lock import LOCK_FILES
from .._runtime.outputs import check_writable
from ..errors import SettingsError, StoreError, command, option
from ..runs.adopting import claimed
from ..runs.records import SharedRecord
from ..runs.run import Run, check_run
from .certificate_text import render_certificate

__all__ = [
    "Certificate",
    "ForgottenUnit",
    "Side",
    "Signature",
    "check_certificate",
    "issue",
    "new_key",
    "read_certificate",
    "render_certificate",
    "write",
]

NAME = "certificate.json"  # in the run it is about
LATER = {"shared", "claimed"}  # fields that came later: left out where they are None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ForgottenUnit(_Strict):
    """A unit that was removed; `unit` is None where only the hash of its id was to be kept."""

    unit: str | None
    unit_sha256: str
    content_sha256: str
    codeword: str


class Side(_Strict):
    """A run before or after: its manifest's hash; by component number, its weights' hash and its split's commitment."""

    run_sha256: str
    weights_sha256: dict[str, str]
    split_commitments: dict[str, str]


class Signature(_Strict):
    """Ed25519, everything in hex."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: str
    signature: str


class Certificate(_Strict):
    """Everything a certificate says."""

    kind: Literal["ablatable certificate"] = "ablatable certificate"
    format: Literal[1] = 1
    time: str
    requested_by: str | None
    units: list[ForgottenUnit]
    ablated: list[str]
    survivors: list[str]
    before: Side
    after: Side
    proofs: dict[str, list[dict]]
    """By surviving component, a proof for each unit that its content is not in the component's split."""
    environment: dict[str, str]
    shared: list[SharedRecord] | None = None
    """The frozen models that all components use, to which all of this is relative; None = there are none."""
    claimed: str | None = None
    """Where the components were trained elsewhere, the giver's claim about what they saw; the proofs rest on it."""
    sha256: str
    signature: Signature | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None or name not in LATER}


def issue(
    before: Run,
    after: Run,
    gone: Sequence[str],
    *,
    requested_by: str | None = None,
    hash_ids: bool = False,
    key: Path | None = None,
) -> Certificate:
    """The certificate that `after` is `before` without the units `gone`, signed if there is a private key (PEM)."""
    from hashlib import sha256

    rows = before.rows(gone)
    left = dict(zip(before.unit_ids, before.digests, strict=True))
    values = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "requested_by": requested_by,
        "units": [
            {
                "unit": None if hash_ids else unit,
                "unit_sha256": sha256(unit.encode()).hexdigest(),
                "content_sha256": left[unit],
                "codeword": before.design.words()[row],
            }
            for unit, row in zip(gone, rows, strict=True)
        ],
        "ablated": [f"{number:02d}" for number in before.present if number not in after.present],
        "survivors": [f"{number:02d}" for number in after.present],
        "before": _side(before),
        "after": _side(after),
        "proofs": {
            f"{number:02d}": [
                merkle.prove([after.digests[row] for row in after.code.split(column)], left[unit]) for unit in gone
            ]
            for column, number in enumerate(after.present)
        },
        "environment": after.manifest.environment,
        "shared": list(after.shared.records) or None,
        "claimed": "; ".join(claimed(after.recipe.component)) or None,
    }
    unsigned = Certificate.model_validate({**values, "sha256": ""})
    certificate = unsigned.model_copy(update={"sha256": _content_hash(unsigned)})
    return certificate if key is None else _signed(certificate, key)


def write(certificate: Certificate, path: Path) -> None:
    """Write it as canonical JSON."""
    write_atomic(path, canonical_json(certificate.model_dump(mode="json")))


def read_certificate(path: str | Path) -> Certificate:
    """Read it; `StoreError` if it is not a certificate, down to the last field."""
    path = Path(path)
    values = read_json(path)
    try:
        certificate = Certificate.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path} is not a certificate as it was issued: field '{where}': {first['msg']}") from None
    if certificate.model_dump(mode="json") != values:
        raise StoreError(f"{path} is not a certificate as it was issued: it lacks fields")
    return certificate


def check_certificate(
    certificate: Certificate | str | Path, run: str | Path | Run, *, public_key: str | None = None
) -> list[str]:
    """Verify a certificate offline against the run it is about.

    Args:
        certificate: as read, or its file.
        run: the run that is left, or its folder.
        public_key: of whoever must have signed it, 64 hex digits; None accepts an unsigned one and any valid signature.

    Returns:
        What is wrong, one sentence each; empty = it holds.
    """
    wrong = []
    if not isinstance(certificate, Certificate):
        certificate = read_certificate(certificate)
    path = run.path if isinstance(run, Run) else run
    if certificate.sha256 != _content_hash(certificate):
        wrong.append("the certificate was changed after it was issued: its hash does not match")
    wrong += _wrong_signature(certificate, public_key)
    if damage := check_run(path):
        return [*wrong, *damage]
    run = Run(path)
    if certificate.after.run_sha256 != run.digest:
        wrong.append(f"it was issued for run {certificate.after.run_sha256[:12]}, and {path} is {run.digest[:12]}")
    wrong += _wrong_components(certificate, run)
    wrong += _wrong_units(certificate, run)
    if strange := _unaccounted(run):
        wrong.append(f"{path} holds files that its manifest does not name: {', '.join(strange[:5])}")
    return wrong


def _wrong_components(certificate: Certificate, run: Run) -> list[str]:
    wrong, side = [], _side(run)
    if certificate.survivors != list(side["weights_sha256"]):
        wrong.append(f"the run's components are {', '.join(side['weights_sha256'])}, not those called survivors")
    if certificate.after.weights_sha256 != side["weights_sha256"]:
        wrong.append("the survivors' weights are not those of the run")
    if certificate.after.split_commitments != side["split_commitments"]:
        wrong.append("the survivors' splits are not those that the run commits to")
    for what in ("weights_sha256", "split_commitments"):
        before, after = getattr(certificate.before, what), getattr(certificate.after, what)
        if any(before.get(number) != after[number] for number in after):
            wrong.append(f"the survivors' {what} are not what they were before")
        if sorted(before) != sorted([*certificate.ablated, *certificate.survivors]):
            wrong.append(f"the components of before.{what} are not the ablated and the surviving ones")
    ones = {
        f"{number:02d}" for unit in certificate.units for number, bit in enumerate(unit.codeword) if bit != "0"
    } & set(certificate.before.weights_sha256)
    if sorted(certificate.ablated) != sorted(ones):
        wrong.append("the ablated components are not those that the units' codewords name")
    if any(
        len(unit.codeword) != run.design.components or set(unit.codeword) - {"0", "1"} for unit in certificate.units
    ):
        wrong.append(f"a codeword is not {run.design.components} bits long, as the run's are")
    if (certificate.claimed or "") != "; ".join(claimed(run.recipe.component)):
        wrong.append("what it says about the components' training is not what the run records")
    if tuple(certificate.shared or ()) != run.shared.records:
        wrong.append("the parts that all components share are not those of the run")
    if certificate.environment != run.manifest.environment:
        wrong.append("the versions and machine are not those that the run names")
    return wrong


def _wrong_units(certificate: Certificate, run: Run) -> list[str]:
    from hashlib import sha256

    wrong, hashes = [], {sha256(unit.encode()).hexdigest() for unit in run.unit_ids}
    for unit in certificate.units:
        name = unit.unit or unit.unit_sha256[:12]
        if unit.unit is not None and sha256(unit.unit.encode()).hexdigest() != unit.unit_sha256:
            wrong.append(f"unit {name}: its id does not have the hash that stands beside it")
        if unit.unit_sha256 in hashes:
            wrong.append(f"unit {name} is still among the run's units")
        if unit.content_sha256 in run.digests:
            wrong.append(f"unit {name}: its content is still among the run's units")
    if not certificate.units:
        wrong.append("it names no unit")
    if sorted(certificate.proofs) != sorted(certificate.survivors):
        wrong.append("there are not proofs for exactly the surviving components")
    commitments = _side(run)["split_commitments"]
    for number, proofs in certificate.proofs.items():
        shown = len(proofs) == len(certificate.units) and all(
            merkle.check(commitments.get(number, ""), unit.content_sha256, proof) is False
            for unit, proof in zip(certificate.units, proofs, strict=True)
        )
        if not shown:
            wrong.append(f"component {number}: the proofs do not show that it never had the units")
    return wrong


def _unaccounted(run: Run) -> list[str]:
    """Files of a run's folder that its manifest does not vouch for, nor are ours by name."""
    own = {"settings.json", "units.parquet", "images.safetensors", "ensemble.json", "log.jsonl", NAME} | LOCK_FILES
    named = own | set(run.manifest.files_sha256)
    files = (path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if not path.is_dir())
    return sorted(set(files) - named)


def _side(run: Run) -> dict:
    numbers = [f"{number:02d}" for number in run.present]
    return {
        "run_sha256": run.digest,
        "weights_sha256": dict(zip(numbers, run.manifest.weights_sha256, strict=True)),
        "split_commitments": dict(zip(numbers, run.manifest.split_commitments, strict=True)),
    }


def _content_hash(certificate: Certificate) -> str:
    return json_hash(certificate.model_dump(mode="json", exclude={"sha256", "signature"}))


# --- signatures ---


def new_key(path: Path) -> str:
    """Make a private key (PEM, readable by its owner alone) where no file is yet; returns the public key in hex."""
    serialization, ed25519 = _cryptography()
    if path.exists():
        raise SettingsError(f"{path} exists, and a key is not overwritten; choose another {option('out')}")
    check_writable(path.parent)
    key = ed25519.Ed25519PrivateKey.generate()
    write_atomic(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    path.chmod(0o600)
    return key.public_key().public_bytes_raw().hex()


def _signed(certificate: Certificate, path: Path) -> Certificate:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"cannot read a private key from {path} ({error}); make one with {command('audit certificate key')}"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SettingsError(
            f"the key in {path} is not an Ed25519 key; make one with {command('audit certificate key')}"
        )
    signature = key.sign(_signed_bytes(certificate)).hex()
    public = key.public_key().public_bytes_raw().hex()
    return certificate.model_copy(update={"signature": Signature(public_key=public, signature=signature)})


def _wrong_signature(certificate: Certificate, public_key: str | None) -> list[str]:
    signature = certificate.signature
    if signature is None:
        return [] if public_key is None else ["it is not signed"]
    if public_key is not None and signature.public_key != public_key.strip().lower():
        return [f"it is signed with another key: {signature.public_key}"]
    _, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.signature), _signed_bytes(certificate))
    except (InvalidSignature, ValueError):
        return ["its signature is not valid"]
    return []


def _signed_bytes(certificate: Certificate) -> bytes:
    return canonical_json(certificate.model_dump(mode="json", exclude={"signature"}))


def _cryptography():
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise SettingsError("signatures need the cryptography package: pip install 'ablatable[signing]'") from None
    return serialization, ed25519
