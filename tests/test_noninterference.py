"""The heart: a component's weights do not depend on a unit outside its split, not by a single bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
from ablatable import Execution
from ablatable._runtime.files import file_hash
from ablatable.diffusion.recipe import IdealConfig, Recipe, TrainingConfig, UNetConfig

KINDS = {
    "unet": Recipe(
        component=UNetConfig(channels=(8, 8), norm_groups=4), training=TrainingConfig(steps=6, batch=4, flips=True)
    ),
    "ideal": Recipe(component=IdealConfig()),
}


def owners() -> ab.Units:
    """Nine owners; the third has three pictures, the sixth two."""
    images = ab.Units.digits(12, size=8).images
    names = ["a", "b", "c", "c", "c", "d", "e", "f", "f", "g", "h", "i"]
    return ab.Units.from_arrays(images, names, group=True)


def code_for(units: ab.Units) -> ab.Code:
    return ab.Code.balanced(units=len(units), components=6, seed=2)


def trained(units: ab.Units, code: ab.Code, recipe: Recipe, out: Path) -> list[dict[str, str]]:
    """Hashes of each component's files."""
    run = ab.train(units, code, recipe, out=out, execution=Execution(workers=0, quiet=True))
    return [
        {path.name: file_hash(path) for path in run.component_folder(index).iterdir()}
        for index in range(code.components)
    ]


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, list]:
    recipe, units = KINDS[request.param], owners()
    return recipe, trained(units, code_for(units), recipe, tmp_path_factory.mktemp("before") / "run")


def compare(before: list[dict[str, str]], after: list[dict[str, str]], holds: np.ndarray, what: str) -> None:
    assert len(before) == len(after) == len(holds)
    assert 0 < holds.sum() < len(holds)
    for index, (was, now) in enumerate(zip(before, after, strict=True)):
        weights = next(name for name in was if name.endswith(".safetensors"))
        if holds[index]:
            assert now[weights] != was[weights], f"component {index} trains on it, but does not notice: {what}"
        else:
            assert now == was, f"component {index} does not train on it, but changed: {what}"


@pytest.mark.parametrize("unit", ["a", "c", "i"])
def test_other_pixels(kind: tuple[Recipe, list], tmp_path: Path, unit: str) -> None:
    recipe, before = kind
    units = owners()
    row, code = units.ids.index(unit), code_for(units)
    one = units.images.copy()
    place = np.flatnonzero(units.owner == row)[-1]
    one[place, 3, 3] ^= 1  # by one grey level in one picture
    new = units.images.copy()
    new[units.owner == row] = 255 - new[units.owner == row]
    for number, images in enumerate((one, new)):
        after = trained(ab.Units(units.ids, images, units.owner), code, recipe, tmp_path / str(number))
        compare(before, after, code.matrix[row], f"variant {number}")


@pytest.mark.parametrize("unit", ["a", "c", "i"])
def test_absent(kind: tuple[Recipe, list], tmp_path: Path, unit: str) -> None:
    recipe, before = kind
    units = owners()
    row, code = units.ids.index(unit), code_for(units)
    kept = code.select([k for k in range(len(units)) if k != row])
    after = trained(units.without([unit]), kept, recipe, tmp_path / "run")
    compare(before, after, code.matrix[row], "it was removed")


def test_more_pictures_of_one_unit(kind: tuple[Recipe, list], tmp_path: Path) -> None:
    recipe, before = kind
    units = owners()
    code, row = code_for(units), units.ids.index("d")
    at = np.flatnonzero(units.owner == row)[0]
    images = np.insert(units.images, at, 255 - units.images[at], axis=0)
    after = trained(ab.Units(units.ids, images, np.insert(units.owner, at, row)), code, recipe, tmp_path / "run")
    compare(before, after, code.matrix[row], "it has one picture more")


def test_one_unit_more(kind: tuple[Recipe, list], tmp_path: Path) -> None:
    """At the front, where it moves every index, with an id that sorts in the middle."""
    recipe, before = kind
    units = owners()
    word = np.array([True, False, True, False, False, True])
    more = ab.Units(
        ("cc", *units.ids),
        np.concatenate([255 - units.images[:1], units.images]),
        np.concatenate([[0], units.owner + 1]),
    )
    after = trained(more, ab.Code(np.vstack([word, code_for(units).matrix])), recipe, tmp_path / "run")
    compare(before, after, word, "there is one unit more")


def test_order_of_units_and_pictures(kind: tuple[Recipe, list], tmp_path: Path) -> None:
    recipe, before = kind
    units, rng = owners(), np.random.default_rng(0)
    for number in range(2):
        order = rng.permutation(len(units))
        turned = units.select([units.ids[k] for k in order])
        after = trained(turned, code_for(units).select(order), recipe, tmp_path / str(number))
        assert after == before
    names = np.array(["a", "b", "c", "c", "c", "d", "e", "f", "f", "g", "h", "i"])
    files = rng.permutation(12)  # the order in which pictures are read; ids come in order of first appearance
    mixed = ab.Units.from_arrays(ab.Units.digits(12, size=8).images[files], names[files], group=True)
    code = code_for(units).select([units.ids.index(id) for id in mixed.ids])
    assert trained(mixed, code, recipe, tmp_path / "mixed") == before


def test_number_of_components(kind: tuple[Recipe, list], tmp_path: Path) -> None:
    recipe, before = kind
    units = owners()
    more = np.hstack([code_for(units).matrix, ~code_for(units).matrix[:, :1]])
    assert trained(units, ab.Code(more), recipe, tmp_path / "run")[:6] == before


def test_the_seed_matters_to_unets_alone(kind: tuple[Recipe, list], tmp_path: Path) -> None:
    recipe, before = kind
    run = ab.train(
        owners(), code_for(owners()), recipe, out=tmp_path / "run", seed=1, execution=Execution(workers=0, quiet=True)
    )
    weights = {name for files in before for name in files if name.endswith(".safetensors")}.pop()
    same = [file_hash(run.component_folder(k) / weights) == before[k][weights] for k in range(6)]
    assert all(same) if recipe.component.kind == "ideal" else not any(same)
