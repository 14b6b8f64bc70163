"""How work is run: impossible values are refused before anything is written."""

from __future__ import annotations

import pytest

from ablatable import Execution
from ablatable.errors import SettingsError


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"workers": 2, "ray": "auto"}, "ray and workers"),
        ({"workers": -1}, "-1"),
        ({"max_resident": 0}, "max_resident is 0"),
    ],
)
def test_impossible_values(values: dict, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Execution(**values)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match="tpu"):
        Execution(device="tpu").resolved()


def test_a_cluster_chooses_its_own_device() -> None:
    assert Execution(ray="auto", device="cuda").resolved().device == "cuda"
