"""Audits: who saw what, chains that break, near-duplicates, and training again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable import Execution, cli
from ablatable._runtime import merkle
from ablatable._runtime.files import canonical_json, json_hash
from ablatable.errors import SettingsError
from ablatable.runs import component_training as fitting
from ablatable.runs.run import Run
from ablatable.unlearning import verification as audit


def saw(small, row: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero(small.code.matrix[row]).tolist())


def test_a_unit(small) -> None:
    for row, unit in enumerate(small.units.ids):
        found = audit.audit_unit(small.run.path, unit)
        assert (found.saw, found.wrong, found.units) == (saw(small, row), (), (unit,))
        assert set(found.saw) | set(found.clean) == set(range(6))
        for number, shown in found.proofs.items():
            verdict = merkle.check(shown["commitment"], small.units.digest(unit), shown["proof"])
            assert verdict is bool(small.code.matrix[row, number])


def test_a_picture_by_its_content(small, tmp_path: Path) -> None:
    Image.fromarray(small.units.of("digit-0005")[0, ..., 0]).save(tmp_path / "anything.png")
    found = audit.audit_image(small.run.path, tmp_path / "anything.png")
    assert (found.units, found.saw) == (("digit-0005",), saw(small, 5))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    found = audit.audit_image(small.run.path, tmp_path / "noise.png")
    assert (found.units, found.saw, found.near) == ((), (), ()) and found.closest is not None


def test_near_duplicates(small, tmp_path: Path) -> None:
    picture = small.units.of("digit-0005")[0, ..., 0].astype(int)
    dimmer = (picture * 0.7 + 20).astype(np.uint8)
    for name, changed in (("dimmer", dimmer), ("mirrored", dimmer[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(changed)).save(tmp_path / f"{name}.png")
        found = audit.audit_image(small.run.path, tmp_path / f"{name}.png")
        assert found.units == () and [near[0] for near in found.near] == ["digit-0005"]
        assert found.near[0][2] == saw(small, 5)


def forge(run: Path, change) -> None:
    """Rewrite a manifest and hash it anew, as a builder would who hides something."""
    manifest = json.loads((run / "ensemble.json").read_bytes())
    change(manifest)
    manifest["sha256"] = json_hash({key: value for key, value in manifest.items() if key != "sha256"})
    (run / "ensemble.json").write_bytes(canonical_json(manifest))


def test_a_false_commitment_is_found(small, tmp_path: Path) -> None:
    run = shutil.copytree(small.run.path, tmp_path / "run")
    hidden = [digest for row, digest in enumerate(small.units.digests) if small.code.matrix[row, 2]][1:]
    forge(run, lambda manifest: manifest["split_commitments"].__setitem__(2, merkle.commit(hidden)))
    assert any("component 02" in line and "committed" in line for line in audit.audit_unit(run, "digit-0000").wrong)


def test_training_again_gives_the_same_bits(small) -> None:
    clean = [number for number in range(6) if not small.code.matrix[4, number]]
    whole = audit.repeat(small.run, ["digit-0004"], clean[:2], execution=Execution(workers=0))
    assert [(each.component, each.variant, each.steps) for each in whole.repeated] == [
        (number, variant, 40) for number in clean[:2] for variant in ("absent", "noise")
    ]
    assert whole.holds and all(each.exact for each in whole.repeated) and not whole.elsewhere
    some = audit.repeat(small.run, ["digit-0004"], clean, steps=5, execution=Execution(workers=0))
    assert some.holds and {each.steps for each in some.repeated} == {4}
    assert audit.repeat(small.run, [], [0], steps=2, execution=Execution(workers=0)).holds
    with pytest.raises(SettingsError, match="trained on one of the units"):
        audit.repeat(
            small.run, ["digit-0004"], [next(k for k in range(6) if k not in clean)], execution=Execution(workers=0)
        )


def test_another_training_is_noticed(small, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fitting.batch_at

    def leaky(task, step, images, train_steps):
        x0, t, noise = original(task, step, images, train_steps)
        return x0 * (1 + 1e-6), t, noise

    monkeypatch.setattr(fitting, "batch_at", leaky)
    clean = [number for number in range(6) if not small.code.matrix[4, number]]
    found = audit.repeat(small.run, ["digit-0004"], clean[:1], steps=2, execution=Execution(workers=0))
    assert not found.holds and not any(each.exact for each in found.repeated)


def test_another_machine_is_held_to_less(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(small.run.path, tmp_path / "run")
    forge(run, lambda manifest: manifest["environment"].__setitem__("cpu", "another"))
    original = fitting.batch_at
    scale = 1 + 1e-6

    def perturbed(task, step, images, train_steps):
        x0, t, noise = original(task, step, images, train_steps)
        return x0 * scale, t, noise

    monkeypatch.setattr(fitting, "batch_at", perturbed)
    found = audit.repeat(Run(run), [], [0], steps=8, execution=Execution(workers=0))
    assert found.holds and not found.repeated[0].exact and any("another" in line for line in found.elsewhere)
    scale = 1.5
    assert not audit.repeat(Run(run), [], [0], steps=8, execution=Execution(workers=0)).holds


def test_the_command_line(
    small, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ablatable", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), " ".join((captured.out + captured.err).split())

    path, two, three = small.run.path, tmp_path / "two", tmp_path / "three"
    unit = ("--unit", "digit-0004")
    code, text = call("audit", "verify", path, *unit, "--retrain", "2", "--steps", "2", "--workers", "0",
                      "--proofs", tmp_path / "p.json")  # fmt: skip
    assert code == 0 and "every hash holds" in text and text.count("the same bits") == 4
    proofs = json.loads((tmp_path / "p.json").read_text())
    for number, shown in proofs["components"].items():
        seen = bool(small.code.matrix[4, int(number)])
        assert merkle.check(shown["commitment"], proofs["content_sha256"], shown["proof"]) is seen
    assert call("audit", "verify", path)[0] == 2
    assert call("audit", "verify", path, *unit, "--retrain", "5")[0] == 2
    code, text = call("run", "forget", path, *unit, "--dry-run")
    assert code == 0 and "would lose 3 components" in text and not two.exists()
    assert call("run", "forget", path, *unit)[0] == 2
    code, text = call("run", "forget", path, *unit, "--out", two)
    assert code == 0 and "certificate" in text
    code, text = call("audit", "certificate", "check", two / "certificate.json", two)
    assert code == 0 and "holds" in text and "not signed" in text
    assert "digit-0004" in call("audit", "certificate", "show", two / "certificate.json")[1]
    assert call("audit", "certificate", "check", two / "certificate.json", path)[0] == 1
    assert "3 of 6 components are left" in call("run", "budget", two)[1]
    code, text = call("run", "repair", two, "--dry-run")
    assert code == 0 and "3 of 6 components to train" in text and "50%" in text
    new = ab.Units.digits(13, size=8).select(["digit-0012"])
    np.savez(tmp_path / "new.npz", images=new.images, ids=list(new.ids))
    code, text = call("run", "extend", path, "--data", tmp_path / "new.npz", "--dry-run")
    assert code == 0 and "3 of 6 components to train" in text and not three.exists()
