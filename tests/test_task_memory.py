"""How many copies of the training data there are while an ensemble trains: one per worker, not one per component."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

import ablatable as ab
from ablatable.runs import component_training, ensemble_training


def test_one_split_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units, code = ab.Units.digits(12, size=8), ab.Code.balanced(units=12, components=8, seed=0)
    made: list[weakref.ref] = []
    most = [0]
    task_of, train = ensemble_training.task_of, component_training.train_component

    def watched(*arguments: Any) -> Any:
        task = task_of(*arguments)
        made.append(weakref.ref(task.split))
        return task

    def trained(task: Any, report: Any) -> str:
        gc.collect()
        most[0] = max(most[0], sum(split() is not None for split in made))
        return train(task, report)

    monkeypatch.setattr(ensemble_training, "task_of", watched)
    monkeypatch.setattr(component_training, "train_component", trained)
    run = ab.train(units, code, "ideal", out=tmp_path / "run", execution=ab.Execution(0, "cpu", quiet=True))
    assert len(run.present) == 8 and len(made) <= 9, "one each, and one to see how much room is needed"
    assert most[0] <= 2, "the one that is trained, and the one before it at most"


def test_a_split_stays_as_small_as_it_is(tmp_path: Path) -> None:
    """Floats are made of a batch, not of the split, which would be four times as large."""
    units = ab.Units.digits(12, size=8)
    pictures = component_training.Pictures(units.images)
    assert pictures.images is units.images and tuple(pictures.shape) == (12, 1, 8, 8)
