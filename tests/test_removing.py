"""Forgetting, repairing, extending: bit for bit what training anew gives; certificates that no change survives."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.files import canonical_json, file_hash, json_hash
from ablatable.codes.removal_budget import budget_of
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
from ablatable.errors import CodeError, DataError, SettingsError, StoreError
from ablatable.runs.run import Run, check_run
from ablatable.unlearning import certificate as certificates
from ablatable.unlearning.forgetting import forget, plan_removal
from ablatable.unlearning.repairing import extend, extended, plan_extension, plan_repair, repair, run_units
from prepared import Template

RECIPES = {
    "unet": Recipe(component=UNetConfig(channels=(8, 8), norm_groups=4), training=TrainingConfig(steps=5, batch=4)),
    "ideal": ab.preset("ideal"),
}
CODE = ab.Code.balanced(12, 6, seed=0, weight=2)
GONE = ["digit-0003", "digit-0007"]


def weights(run: Run) -> dict[int, str]:
    """Each component's weights, hashed from the files."""
    return {
        number: file_hash(next((run.path / "components" / f"{number:02d}").glob("*.safetensors")))
        for number in run.present
    }


@pytest.fixture(scope="module", params=list(RECIPES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp(request.param) / "run"
    return ab.train(
        ab.Units.digits(12, size=8), CODE, RECIPES[request.param], out=out, execution=Execution(workers=0, quiet=True)
    )


@pytest.fixture(scope="module")
def forgotten(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("forgotten") / "run"
    return forget(made.path, GONE, out=out, requested_by="the owner")[0]


def anew(made: Run, units: ab.Units, code: ab.Code, out: Path) -> Run:
    """The oracle: everything trained from scratch."""
    return ab.train(units, code, made.recipe, out=out, execution=Execution(workers=0, quiet=True))


def without(gone: list[str]) -> tuple[ab.Units, ab.Code]:
    units = ab.Units.digits(12, size=8)
    return units.without(gone), CODE.select([row for row, unit in enumerate(units.ids) if unit not in gone])


# --- forgetting ---


def test_what_is_left(made: Run, forgotten: Run, tmp_path: Path) -> None:
    trained = set(np.flatnonzero(CODE.matrix[[3, 7]].any(axis=0)).tolist())
    assert set(forgotten.present) == set(range(6)) - trained
    before, after = weights(made), weights(forgotten)
    assert after == {number: before[number] for number in forgotten.present}
    assert forgotten.unit_ids == tuple(unit for unit in made.unit_ids if unit not in GONE)
    assert check_run(forgotten.path) == []
    scratch = anew(made, *without(GONE), tmp_path / "scratch")
    assert after == {number: weights(scratch)[number] for number in forgotten.present}


def test_nothing_is_left_of_what_went(made: Run, forgotten: Run) -> None:
    files = {path.relative_to(forgotten.path).as_posix() for path in forgotten.path.rglob("*") if path.is_file()}
    components = {name.split("/")[1] for name in files if name.startswith("components/")}
    assert components == {f"{number:02d}" for number in forgotten.present}
    images = made.units()
    removed = {images.of(unit).tobytes() for unit in GONE}
    assert not removed & {image.tobytes() for image in forgotten.units().images}
    lost = {file_hash(path) for number in set(range(6)) - set(forgotten.present)
            for path in (made.path / "components" / f"{number:02d}").iterdir() if path.suffix != ".json"}  # fmt: skip
    assert not lost & {file_hash(forgotten.path / name) for name in files}
    for name in files - {"certificate.json"}:
        content = (forgotten.path / name).read_bytes()
        for unit in GONE:
            assert unit.encode() not in content, name
            assert images.digest(unit).encode() not in content, name
            assert images.of(unit).tobytes() not in content, name


def test_it_is_a_run_like_any_other(forgotten: Run, tmp_path: Path) -> None:
    from ablatable.report import write_report

    pictures = ab.AblatablePipeline.from_pretrained(forgotten.path)([3], num_inference_steps=2, output_type="np").images
    assert np.asarray(pictures).shape == (1, 8, 8, 1)
    stuck = budget_of(forgotten.code, forgotten.unit_ids, 6).stuck
    seen = {unit for unit, word in zip(forgotten.unit_ids, forgotten.code.matrix, strict=True) if word.all()}
    assert set(stuck) == seen
    if stuck:
        with pytest.raises(CodeError, match=r"every component that is left saw .* repair"):
            ab.enumerate_universe(
                forgotten.path,
                [0],
                out=tmp_path / "no",
                sampling=Sampling(steps=2),
                execution=Execution(workers=0, quiet=True),
            )
    made = anew_digits(tmp_path)
    single = forget(made.path, GONE[:1], out=tmp_path / "one")[0]
    assert not single.code.matrix.all(axis=1).any()
    universe = ab.enumerate_universe(
        single.path, [0, 1], out=tmp_path / "u", sampling=Sampling(steps=2), execution=Execution(workers=0, quiet=True)
    )
    unseen = [row for row, word in enumerate(single.code.matrix) if not word.any()]
    assert (universe.distances()[unseen] == 0).all()
    assert write_report(universe, tmp_path / "report", run=single.path).exists()


def test_what_cannot_be_forgotten(made: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no unit 'nobody'"):
        forget(made.path, ["nobody"], out=tmp_path / "x")
    with pytest.raises(CodeError, match="no component survives"):
        forget(made.path, made.unit_ids[:-1], out=tmp_path / "x")
    with pytest.raises(SettingsError, match="old run, which stays"):
        forget(made.path, GONE, out=made.path)
    with pytest.raises(SettingsError, match="at least one unit"):
        forget(made.path, [], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_copy_must_go_too(tmp_path: Path) -> None:
    images = ab.Units.digits(6, size=8).images.copy()
    images[4] = images[1]
    units = ab.Units.from_arrays(images, [*"abcd", "e", "f"])
    run = anew_ideal(units, tmp_path)
    with pytest.raises(DataError, match=r"unit 'e' holds the same picture as 'b'.*both: b and e"):
        forget(run.path, ["b"], out=tmp_path / "x")
    assert set(forget(run.path, ["b", "e"], out=tmp_path / "y")[0].unit_ids) == set("acdf")


def anew_ideal(units: ab.Units, tmp_path: Path) -> Run:
    code = ab.Code.balanced(len(units), 5, weight=1 if len(units) < 6 else 2)
    return ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=Execution(workers=0, quiet=True))


def test_budget_by_hand() -> None:
    """Weight 1 on 4 components, and one unit on two of them."""
    code = ab.Code.from_words(["1000", "0100", "0010", "0011"])
    budget = budget_of(code, list("abcd"), 8)
    assert budget.costs == (("a", 1), ("b", 1), ("c", 1), ("d", 2))
    assert budget.guaranteed == 2  # a, b, d together leave nothing; any two leave one
    assert budget.ahead[0].mean == (3 + 3 + 3 + 2) / 4
    assert budget.stuck == [] and not budget.at_risk
    assert budget_of(code.columns([2, 3]), list("abcd"), 8).stuck == ["d"]
    assert budget_of(code.columns([2]), list("abcd"), 8).at_risk


# --- repairing and extending ---


def test_repair_is_training_from_scratch(made: Run, forgotten: Run, tmp_path: Path) -> None:
    lost = tuple(number for number in range(6) if number not in forgotten.present)
    work = plan_repair(forgotten)
    assert (work.trained, work.share) == (lost, len(lost) / 6)
    repaired = repair(forgotten.path, out=tmp_path / "repaired", execution=Execution(workers=0, quiet=True))
    scratch = anew(made, *without(GONE), tmp_path / "scratch")
    assert weights(repaired) == weights(scratch)
    assert repaired.digest == scratch.digest  # the manifest and all that it vouches for


def test_forgetting_twice_and_repairing_once(made: Run, tmp_path: Path) -> None:
    first = forget(made.path, GONE[:1], out=tmp_path / "1")[0]
    second = forget(first.path, GONE[1:], out=tmp_path / "2")[0]
    repaired = repair(second.path, out=tmp_path / "3", execution=Execution(workers=0, quiet=True))
    assert weights(repaired) == weights(anew(made, *without(GONE), tmp_path / "scratch"))


def test_the_data_must_be_the_runs(forgotten: Run) -> None:
    assert run_units(forgotten, "digits:12").fingerprint() == forgotten.units().fingerprint()
    with pytest.raises(DataError, match=r"lacks unit 'digit-0008'.* 3 more"):
        run_units(forgotten, "digits:8")


def test_other_data_are_refused(forgotten: Run, tmp_path: Path) -> None:
    images = ab.Units.digits(12, size=8).images.copy()
    images[5, 0, 0] ^= 1
    np.savez(tmp_path / "d.npz", images=images, ids=[f"digit-{k:04d}" for k in range(12)])
    with pytest.raises(DataError, match=r"unit 'digit-0005' .* does not have the content"):
        run_units(forgotten, tmp_path / "d.npz")


def test_extending_is_training_from_scratch(made: Run, tmp_path: Path) -> None:
    new = ab.Units.digits(14, size=8).select(["digit-0012", "digit-0013"])
    work = plan_extension(made, new)
    assert set(work.design.words()[:12]) == set(CODE.words()) and len(set(work.design.words())) == 14
    touched = set(np.flatnonzero(work.design.matrix[12:].any(axis=0)).tolist())
    assert set(work.trained) == touched and len(touched) < 6
    run = extend(made.path, new, out=tmp_path / "extended", execution=Execution(workers=0, quiet=True))
    scratch = anew(made, ab.Units.digits(14, size=8), work.design, tmp_path / "scratch")
    assert weights(run) == weights(scratch) and run.digest == scratch.digest
    before = weights(made)
    assert all((weights(run)[number] == before[number]) == (number not in touched) for number in range(6))


def test_extension_refuses(made: Run, forgotten: Run) -> None:
    with pytest.raises(DataError, match="there already is a unit 'digit-0001'"):
        plan_extension(made, ab.Units.digits(2, size=8).select(["digit-0001"]))
    with pytest.raises(SettingsError, match="repair it first"):
        plan_extension(forgotten, ab.Units.digits(13, size=8).select(["digit-0012"]))
    with pytest.raises(SettingsError, match=r"\(1, 9, 9\).*\(1, 8, 8\)"):
        plan_extension(made, ab.Units.digits(13, size=9).select(["digit-0012"]))
    with pytest.raises(CodeError, match="3 codewords of weight 2 are left for 4"):
        extended(CODE, 4)


def test_new_codewords_by_hand() -> None:
    code = ab.Code.from_words(["1100", "1010"])  # sizes 2, 1, 1, 0: the emptiest are 3, 1, 2
    assert extended(code, 1).words()[2:] == ["0101"]
    assert set(extended(code, 3).words()[2:]) == {"0101", "0011", "0110"}
    assert len(set(extended(code, 4).words())) == 6


# --- killed at any time ---

KILLED = """
import sys, pathlib
import ablatable as ab
from ablatable._runtime import files
from ablatable.unlearning.forgetting import forget
from ablatable.unlearning.repairing import extend, repair

left = int(sys.argv[4])
def count(original):
    def wrapped(*a, **k):
        global left
        left -= 1
        if left < 0:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*a, **k)
    return wrapped
pathlib.Path.replace = count(pathlib.Path.replace)  # whatever appears, appears by a rename
what, run, out = sys.argv[1:4]
if what == "forget":
    forget(run, ["digit-0003", "digit-0007"], out=out)
elif what == "repair":
    repair(run, out=out, execution=ab.Execution(workers=0, quiet=True))
else:
    new = ab.Units.digits(13, size=8).select(["digit-0012"])
    extend(run, new, out=out, execution=ab.Execution(workers=0, quiet=True))
"""


@pytest.mark.parametrize("what", ["forget", "repair", "extend"])
def test_killed_at_every_rename(what: str, tmp_path: Path, fingerprints, template: Template) -> None:
    """The new run is complete or no run, the old one is as it was, and the same command goes on to the same bytes."""
    made = anew_digits(tmp_path)
    old = made if what != "repair" else forget(made.path, GONE, out=tmp_path / "old")[0]
    before = fingerprints(old.path)
    whole = tmp_path / "whole"
    assert killed(template, what, old.path, whole, 1000) == 0
    expected = {name: digest for name, digest in fingerprints(whole).items() if name != "certificate.json"}
    out, kills = tmp_path / "new", 0
    for renames in (0, 3, 5, 7, 1000):
        code = killed(template, what, old.path, out, renames)
        assert fingerprints(old.path) == before
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        if (out / "ensemble.json").exists():
            assert check_run(out) == []
        else:
            with pytest.raises(StoreError):
                Run(out)
        if renames == 5:
            shutil.rmtree(out)  # from the start as well as from what was left
    assert kills >= 2
    assert {name: digest for name, digest in fingerprints(out).items() if name != "certificate.json"} == expected
    assert (out / "certificate.json").exists() == (what == "forget")


def anew_digits(tmp_path: Path) -> Run:
    units = ab.Units.digits(12, size=8)
    return ab.train(units, CODE, ab.preset("ideal"), out=tmp_path / "made", execution=Execution(workers=0, quiet=True))


def killed(template: Template, what: str, run: Path, out: Path, renames: int) -> int:
    return template.start(KILLED, what, run, out, str(renames)).wait()


# --- certificates ---


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, str]:
    """A forgotten run, its signed certificate, and the public key."""
    folder = tmp_path_factory.mktemp("certified")
    public = certificates.new_key(folder / "key.pem")
    made = anew_digits(folder)
    run, _ = forget(made.path, GONE, out=folder / "run", requested_by="the owner", key=folder / "key.pem")
    return run, folder / "run" / "certificate.json", public


def test_a_certificate_holds(certified: tuple[Run, Path, str]) -> None:
    run, path, public = certified
    certificate = certificates.read_certificate(path)
    assert certificates.check_certificate(certificate, run.path, public_key=public) == []
    assert certificates.check_certificate(certificate, run.path) == []
    assert certificate.ablated == [f"{n:02d}" for n in np.flatnonzero(CODE.matrix[[3, 7]].any(axis=0))]
    text = certificates.render_certificate(certificate)
    for word in (*GONE, "the owner", run.digest, public, *certificate.after.weights_sha256.values()):
        assert word in text


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for key in range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def tampered(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    return "0" if value is None else value[:-1] + ("0" if value[-1:] != "0" else "1")


def verdict(values: dict, path: Path, run: Run, public: str | None) -> list[str]:
    path.write_bytes(canonical_json(values))
    try:
        return certificates.check_certificate(certificates.read_certificate(path), run.path, public_key=public)
    except StoreError as error:
        return [str(error)]


def test_flipping_any_field_is_found(certified: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, path, public = certified
    values = json.loads(path.read_bytes())
    flips = list(leaves(values))
    assert len(flips) > 60
    for flip in flips:
        changed = copy.deepcopy(values)
        at = changed
        for key in flip[:-1]:
            at = at[key]
        at[flip[-1]] = tampered(at[flip[-1]])
        assert verdict(changed, tmp_path / "c.json", run, None), flip
        if flip[0] not in ("sha256", "signature"):  # hashed anew by a forger who lacks the key
            changed["sha256"] = json_hash({k: v for k, v in changed.items() if k not in ("sha256", "signature")})
            assert verdict(changed, tmp_path / "c.json", run, None), flip
            bare = {**changed, "signature": None}
            assert verdict(bare, tmp_path / "c.json", run, public), flip
            # what nobody but the signer can vouch for is all that a forger can change in an unsigned one
            free = flip[0] in ("time", "requested_by") or flip[:2] == ("before", "run_sha256")
            free |= flip[0] == "before" and flip[-1] not in changed["survivors"]
            if flip[-1] != "content_sha256":  # that of a unit that is not there either
                assert bool(verdict(bare, tmp_path / "c.json", run, None)) is not free, flip
    for key in list(values):
        dropped = {k: v for k, v in values.items() if k != key}
        assert verdict(dropped, tmp_path / "c.json", run, public), key
    assert verdict({**values, "more": 1}, tmp_path / "c.json", run, None)


def test_another_run_or_more_in_it_is_found(certified: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, path, _ = certified
    certificate = certificates.read_certificate(path)
    made = run.path.parent / "made"
    assert certificates.check_certificate(certificate, made)
    dirty = shutil.copytree(run.path, tmp_path / "dirty")
    (dirty / "components" / "00.partial").mkdir()
    (dirty / "components" / "00.partial" / "checkpoint").write_bytes(b"what was to go")
    assert any("00.partial/checkpoint" in line for line in certificates.check_certificate(certificate, dirty))


def test_ids_as_hashes(tmp_path: Path) -> None:
    made = anew_digits(tmp_path)
    run, certificate = forget(made.path, GONE, out=tmp_path / "run", hash_ids=True)
    assert certificates.check_certificate(certificate, run.path) == []
    assert not any(unit in (tmp_path / "run" / "certificate.json").read_text() for unit in GONE)
    assert "id kept as a hash" in certificates.render_certificate(certificate)


def test_keys(tmp_path: Path) -> None:
    certificates.new_key(tmp_path / "k.pem")
    assert (tmp_path / "k.pem").stat().st_mode & 0o077 == 0
    with pytest.raises(SettingsError, match="exists"):
        certificates.new_key(tmp_path / "k.pem")
    (tmp_path / "bad.pem").write_text("no key")
    made = anew_digits(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot read a private key from .*bad\.pem"):
        forget(made.path, GONE, out=tmp_path / "run", key=tmp_path / "bad.pem")


def test_looking_first_changes_nothing(made: Run, fingerprints) -> None:
    before = fingerprints(made.path)
    removal = plan_removal(made, GONE)
    assert set(removal.ablated) | set(removal.survivors) == set(range(6))
    assert removal.budget.present == len(removal.survivors)
    assert fingerprints(made.path) == before
