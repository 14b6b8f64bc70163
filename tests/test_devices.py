"""Devices: which worker gets which GPU, what a computation's bits depend on, and that nothing else is computed.

There is no GPU here. What torch says of GPUs is replaced; what is done with it is real.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import worker_tasks
from ablatable import Execution, Sampling, Universe, enumerate_universe, train
from ablatable._runtime.devices import computing, gpu_share, hardware
from ablatable.diffusion.places import refuse_unless_places_agree
from ablatable.errors import SettingsError, WorkerError
from ablatable.runs.batches import batch_of
from ablatable.runs.run import Run
from ablatable.universes import precision
from ablatable.universes.enumeration import plan_universe
from conftest import Small


class Gpus:
    """What torch says of GPUs."""

    def __init__(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        self.names = list(names)
        patch.setattr(torch.cuda, "is_available", lambda: bool(self.names))
        patch.setattr(torch.cuda, "device_count", lambda: len(self.names))
        patch.setattr(torch.cuda, "get_device_name", lambda device: self.names[torch.device(device).index or 0])
        patch.setattr(torch.version, "cuda", "12.8")
        patch.setattr(torch.backends.cudnn, "version", lambda: 91002)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda *names: Gpus(monkeypatch, *names)


def shares(execution: Execution, tasks: int = 6) -> set[str]:
    with execution.resolved().pool(worker_tasks.visible) as pool:
        return {result for _, result in pool.run(range(tasks))}


def test_each_worker_has_a_gpu_of_its_own(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("A", "B", "C")
    assert Execution().resolved().device == "cuda"
    assert shares(Execution()) == {"0", "1", "2"}
    assert shares(Execution(workers=2)) == {"0", "1"}
    assert shares(Execution(workers=4)) == {"0", "1", "2"}, "two of four share the first"
    assert shares(Execution(device="cpu", workers=1)) == {""}
    assert shares(Execution(device="cuda:1")) == {""}, "it finds its GPU by the number"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f, 2")  # some of the machine's, as a scheduler gives them
    assert shares(Execution()) == {"5", "GPU-7f", "2"}


def test_a_worker_that_replaces_another_has_its_gpu(gpus: Any, tmp_path: Path) -> None:
    gpus("A", "B")
    tasks = [str(tmp_path / name) for name in "abcdef"]
    with Execution().resolved().pool(worker_tasks.die_once_and_see) as pool:
        assert {seen for _, seen in pool.run(tasks)} == {"0", "1"}
        assert len(pool.workers) == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_small_components_share_a_gpu() -> None:
    """Of 16 GiB, and a GiB of each process is CUDA's own."""
    gib = 2**30
    assert [gpu_share(needs * gib) for needs in (0, 3, 4, 7, 8, 40)] == [0.25, 0.25, 0.5, 0.5, 1, 1]
    assert gpu_share(7 * gib, 80 * gib) == 0.25


@pytest.mark.parametrize(
    ("device", "named"),
    [("cuda:9", "there are 8 GPUs, cuda:0 to cuda:7"), ("cuda:x", "no device"), ("mps", "sees none")],
)
def test_devices_that_are_not_there(gpus: Any, device: str, named: str) -> None:
    gpus(*"ABCDEFGH")
    assert Execution(device="cuda:7").resolved().device == "cuda:7"
    with pytest.raises(SettingsError, match=named):
        Execution(device=device).resolved()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_memory_is_a_sentence(workers: int) -> None:
    with (
        Execution(workers=workers, device="cpu").pool(worker_tasks.fill_memory) as pool,
        pytest.raises(WorkerError, match=r"memory is full .*batch=16.*max_resident=1"),
    ):
        list(pool.run([0]))


# --- precision and determinism ----------------------------------------------------------------------------------


def flags() -> dict[str, Any]:
    backends: Any = torch.backends
    return {
        "conv": backends.cudnn.conv.fp32_precision,
        "matmul": backends.cuda.matmul.fp32_precision,
        "cpu": backends.mkldnn.matmul.fp32_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture
def careless() -> Iterator[None]:
    """A caller who lets the CPU round products of float32."""
    products: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    yield
    products.fp32_precision = before


@pytest.mark.usefixtures("careless")
def test_fp32_is_fp32_and_kernels_are_deterministic(gpus: Any) -> None:
    gpus("A")
    before = flags()
    assert before["cpu"] == "bf16"
    with computing("cuda"):
        inside = flags()
        assert torch.utils.deterministic.fill_uninitialized_memory is False, "it would write all memory twice"  # pyright: ignore[reportAttributeAccessIssue]
    assert inside == {
        "conv": "ieee", "matmul": "ieee", "cpu": "ieee", "deterministic": True, "cudnn": (True, False), "threads": 1,
    }  # fmt: skip
    with computing("cuda", "tf32"):
        assert (flags()["conv"], flags()["matmul"]) == ("tf32", "tf32")
    assert flags() == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with computing("cpu"):
        assert flags() == {**before, "conv": "ieee", "matmul": "ieee", "cpu": "ieee", "threads": 1}


def test_tf32_needs_a_gpu(small: Small, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tf32 exists on CUDA"):
        enumerate_universe(
            small.run, [0], out=tmp_path / "u", sampling=Sampling(precision="tf32"), execution=Execution(device="cpu")
        )
    assert not (tmp_path / "u").exists()


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("what", ["training", "drawing"])
def test_flags_inside_a_step(what: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that looks at the flags, in the real training step and the real sampling step."""
    from ablatable.diffusion.unet import UNetDenoiser

    seen = []
    forward = UNetDenoiser.forward
    monkeypatch.setattr(UNetDenoiser, "forward", lambda self, x, t: seen.append(flags()) or forward(self, x, t))
    if what == "drawing":
        enumerate_universe(
            small.run,
            [0],
            units=small.run.unit_ids[:1],
            out=tmp_path / "u",
            sampling=Sampling("ddim", 2),
            execution=Execution(0, "cpu"),
        )
    else:
        from ablatable.unlearning.verification import repeat

        repeat(small.run, (), small.run.present[:1], steps=1, execution=Execution(0, "cpu"))
    assert seen and {(f["conv"], f["cpu"], f["threads"]) for f in seen} == {("ieee", "ieee", 1)}


class Leaky(nn.Module):
    """A denoiser whose sums depend on a row's place in the batch, as a kernel's may."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, t: int) -> Tensor:
        return self.inner(x, t) * (1 + 2e-7 * torch.arange(len(x))[:, None, None, None])


def test_a_device_that_mixes_rows_up_is_refused(small: Small) -> None:
    component = small.run.load_component(0)
    refuse_unless_places_agree(component, small.run.shape, 8, 500, "cpu")
    with pytest.raises(SettingsError, match="depends on its place in a batch of 8"):
        refuse_unless_places_agree(Leaky(component), small.run.shape, 8, 500, "cpu")


def test_drawing_refuses_such_a_device(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablatable.universes.drawing import loaded

    load = Run.load_component
    monkeypatch.setattr(Run, "load_component", lambda self, index, **how: Leaky(load(self, index, **how)))
    loaded.cache_clear()
    with pytest.raises(SettingsError, match="depends on its place"):
        enumerate_universe(
            small.run, [0], out=tmp_path / "u", sampling=Sampling("ddim", 2), execution=Execution(0, "cpu")
        )
    loaded.cache_clear()


# --- hardware -----------------------------------------------------------------------------------------------------


def test_hardware_names_what_bits_depend_on(gpus: Any) -> None:
    gpus("NVIDIA A100", "NVIDIA H100")
    assert hardware("cuda:1") == "NVIDIA H100, CUDA 12.8, cuDNN 91002"
    assert hardware("cpu") == "cpu"


def other_hardware(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on the CPU says that it is this GPU."""
    from ablatable._runtime import execution
    from ablatable.runs import component_training
    from ablatable.universes import drawing

    for module in (execution, component_training, drawing):
        monkeypatch.setattr(module, "hardware", lambda device: name)
    monkeypatch.setattr(component_training, "kind_of", lambda device: "cuda")


HERE, QUICK = Execution(0, "cpu", quiet=True), Sampling("ddim", 2)


def test_a_universe_stays_on_its_hardware(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, units = tmp_path / "u", small.run.unit_ids[:3]
    draw = partial(enumerate_universe, small.run, out=out, units=units, sampling=QUICK, execution=HERE)
    draw([0])
    settings = json.loads((out / "zarr.json").read_text())["attributes"]["ablatable"]
    assert "run_sha256" in settings and "hardware" not in settings, (
        "on a CPU the record is as it was before there was such a setting"
    )
    other_hardware(monkeypatch, "NVIDIA A100, CUDA 12.8, cuDNN 91002")
    assert len(draw([0]).seeds) == 1, "nothing is left to draw"
    with pytest.raises(SettingsError, match=r"was drawn on cpu, and this is NVIDIA A100.*Draw on cpu"):
        draw([0, 1])
    assert len(Universe.open(out).seeds) == 1
    begun = tmp_path / "begun"
    shutil.copytree(out, begun)
    (begun / "done/factual.0000000.json").unlink()
    with pytest.raises(SettingsError, match="was drawn on cpu"):
        draw([0], out=begun)


def test_a_universe_of_a_gpu(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_hardware(monkeypatch, "NVIDIA A100, CUDA 12.8, cuDNN 91002")
    draw = partial(
        enumerate_universe, small.run, out=tmp_path / "u", units=small.run.unit_ids[:3], sampling=QUICK, execution=HERE
    )
    assert draw([0]).settings.hardware.startswith("NVIDIA A100")
    assert len(draw([0, 1]).seeds) == 2
    other_hardware(monkeypatch, "NVIDIA H100, CUDA 12.8, cuDNN 91002")
    with pytest.raises(SettingsError, match=r"was drawn on NVIDIA A100.* this is NVIDIA H100"):
        draw([0, 1, 2])


def test_each_task_compares(small: Small, small_universe: Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster the driver sees one machine, and a task may find itself on another."""
    from ablatable.universes.drawing import Source

    source = Source.of(small.run, HERE)
    source.load(small_universe.settings)
    other_hardware(monkeypatch, "NVIDIA H100, CUDA 12.8, cuDNN 91002")
    with pytest.raises(SettingsError, match="was drawn on cpu, and this is NVIDIA H100"):
        source.load(small_universe.settings)


def test_a_run_stays_on_its_hardware(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablatable.unlearning import verification

    recipe, out = small.recipe.replace(steps=1), tmp_path / "run"
    make = partial(train, small.units, small.code, recipe, out=out, execution=HERE)
    other_hardware(monkeypatch, "NVIDIA A100, CUDA 12.8, cuDNN 91002")
    run = make()
    record = json.loads((run.component_folder(0) / "training.json").read_text())
    assert record["hardware"] == "NVIDIA A100, CUDA 12.8, cuDNN 91002"
    monkeypatch.setattr(verification, "hardware", lambda device: "NVIDIA H100, CUDA 12.8, cuDNN 91002")
    said = verification.repeat(run, (), run.present[:1], steps=1, execution=HERE).elsewhere
    assert said == ("device: NVIDIA A100, CUDA 12.8, cuDNN 91002 then, NVIDIA H100, CUDA 12.8, cuDNN 91002 now",)
    other_hardware(monkeypatch, "NVIDIA H100, CUDA 12.8, cuDNN 91002")
    assert make().digest == run.digest, "nothing is left to train"
    (out / "ensemble.json").unlink()
    with pytest.raises(SettingsError, match=r"hardware: NVIDIA A100.* there, NVIDIA H100"):
        make()


# --- batches and the check of precision -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "gib", "rows", "expected", "stacked"),
    [
        ((3, 32, 32), 80, 1024, 256, 128),  # enough of everything
        ((3, 32, 32), 80, 200, 64, 64),  # a component survives in half of the rows, 100
        ((3, 256, 256), 80, 1024, 16, 2),  # 20 GiB for rows of 1.3 GB each
        ((3, 256, 256), 8, 1024, 1, 1),
        ((3, 32, 32), 8, 1024, 64, 8),  # 2 GiB for rows of 21 MB each
    ],
)
def test_the_batch_follows_rows_and_memory(shape: Any, gib: int, rows: int, expected: int, stacked: int) -> None:
    """`stacked`: of eight components that compute at once, each a batch."""
    component = SimpleNamespace(channels=(128, 256))
    run: Any = SimpleNamespace(
        shape=shape, recipe=SimpleNamespace(component=component), code=SimpleNamespace(matrix=np.eye(2))
    )
    assert batch_of(run, "fp32", "NVIDIA A100", gib * 2**30, rows) == expected
    assert batch_of(run, "fp32", "cpu", None, rows) == 8 and batch_of(run, "bf16", "cpu", None, rows) == 16
    assert batch_of(run, "fp32", "NVIDIA A100", gib * 2**30, rows, at_once=8) == stacked


def test_the_batch_is_recorded(small: Small, gpus: Any) -> None:
    settings = plan_universe(small.run, list(range(64)), sampling=QUICK, hardware="A GPU", memory=2**34)
    assert settings.block == (6, 16) and settings.batch == 32, "of the 48 rows that a component has"
    assert plan_universe(small.run, [0], sampling=QUICK).batch == 8


def test_the_check_of_precision_is_bounded(
    small: Small, small_universe: Universe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many images as a number of passes allows: at the paper's size, 50 steps and 11 of 22 components, 16."""
    words = np.tile(np.arange(22) % 2 == 0, (8192, 1))
    samples, ablations = precision.subset(words, 100, 50)
    assert (samples, ablations) == (1, 16) and 50 * (22 + 16 * 11) <= 10_000 < 50 * (22 + 17 * 11)
    assert precision.subset(words, 100, 2) == (2, 24)
    assert precision.subset(words, 100, 1000) == (1, 1)
    where = []
    draw = precision.draw
    monkeypatch.setattr(precision, "draw", lambda *a, device, **k: where.append(device) or draw(*a, device=device, **k))
    precision.precision_error(small_universe, small.run, device="cpu")
    assert where == ["cpu"]
