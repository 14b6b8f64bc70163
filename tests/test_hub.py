"""Runs on the Hub, against a local stand-in of its HTTP API: published, fetched whole or in part, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import ablatable as ab
from ablatable._runtime.hub import is_hub_name
from ablatable.errors import CodeError, DataError, SettingsError, StoreError
from ablatable.runs.publishing import fetch_run, push_run
from ablatable.runs.run import check_run
from ablatable.universes.checking import check
from conftest import Small
from hub_stand_in import Hub, hub_stand_in

pytestmark = pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, to which `huggingface_hub` is pointed; its cache is empty."""
    from huggingface_hub import constants

    with hub_stand_in() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        monkeypatch.chdir(tmp_path)
        yield stand_in


def test_a_run_there_and_back(small: Small, hub: Hub) -> None:
    """What is fetched is the run: every hash agrees, and it draws the same bytes."""
    address = push_run(small.run, "user/digits", license="cc-by-sa-3.0")
    assert address.startswith(hub.url)
    files = hub.files("user/digits")
    assert "log.jsonl" not in files and not any(name.startswith(".") for name in files)
    for name in ("ensemble.json", "units.parquet", "components/00/diffusion_pytorch_model.safetensors"):
        assert files[name] == (small.run.path / name).read_bytes()
    fetched = fetch_run("user/digits", images=True)
    assert check_run(fetched.path) == [] and fetched.digest == small.run.digest
    model = ab.AblatablePipeline.from_pretrained("user/digits")
    wanted = ab.AblatablePipeline(small.run)(seeds=[3], num_inference_steps=4, output_type="np").images
    np.testing.assert_array_equal(model(seeds=[3], num_inference_steps=4, output_type="np").images, wanted)


def test_only_the_survivors_are_fetched(small: Small, hub: Hub) -> None:
    push_run(small.run, "user/digits", picture=False)
    unit = small.units.ids[3]
    other = next(u for row, u in enumerate(small.units.ids) if row != 3 and small.code.survivors([3, row]).any())
    model = ab.AblatablePipeline.from_pretrained("user/digits", without=[unit])
    saw = [f"components/{number:02d}/" for number in np.flatnonzero(small.code.matrix[3])]
    assert hub.fetched and not any(name.startswith(folder) for name in hub.fetched for folder in saw)
    assert "images.safetensors" not in hub.fetched
    gone = next(u for row, u in enumerate(small.units.ids) if not small.code.survivors([3, row]).any())
    with pytest.raises(CodeError, match=f"without {unit}, {gone}"):
        model(seeds=[5], without=[gone], num_inference_steps=4)
    whole = ab.AblatablePipeline(small.run)
    for asked, wanted in (((), [unit]), ([other], [unit, other])):
        got = model(seeds=[5], without=asked, num_inference_steps=4, output_type="np").images
        want = whole(seeds=[5], without=wanted, num_inference_steps=4, output_type="np").images
        np.testing.assert_array_equal(got, want)


def test_a_revision(small: Small, hub: Hub) -> None:
    """A commit stays what it was when the branch moves on."""
    push_run(small.run, "user/digits", picture=False)
    commit = hub.sha("models/user/digits", "main")
    hub.commit("user/digits", {"ensemble.json": b"{}"})
    assert ab.AblatablePipeline.from_pretrained("user/digits", revision=commit).run.digest == small.run.digest
    with pytest.raises(StoreError, match="no revision 'v2'"):
        fetch_run("user/digits", revision="v2")


def test_the_card(small: Small, hub: Hub) -> None:
    push_run(small.run, "user/digits", license="cc-by-sa-3.0", images=False)
    files = hub.files("user/digits")
    card = files["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-sa-3.0"
    assert yaml.safe_load(header)["library_name"] == "ablatable"
    for told in (
        small.run.digest,
        'from_pretrained("user/digits")',
        f"`{small.units.ids[0]}`",
        "samples.png",
        "2406.07908",
    ):
        assert told in text
    assert "images.safetensors" not in files and "The images are not published" in text
    assert files["samples.png"].startswith(b"\x89PNG")


def test_what_goes_wrong(small: Small, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no repository of that name"):
        ab.AblatablePipeline.from_pretrained("user/none")
    hub.commit("user/other", {"model_index.json": b"{}", "weights.bin": b"pickle"})
    with pytest.raises(StoreError, match="'user/other' on the Hub is no run"):
        ab.AblatablePipeline.from_pretrained("user/other")
    assert "weights.bin" not in hub.fetched
    push_run(small.run, "user/digits", picture=False)
    with pytest.raises(DataError, match="no unit 'digit-9'"):
        ab.AblatablePipeline.from_pretrained("user/digits", without=["digit-9"])
    with pytest.raises(SettingsError, match="write user/name"):
        push_run(small.run, "digits")
    (tmp_path / "user" / "here").mkdir(parents=True)
    assert is_hub_name("user/none") and not is_hub_name("user/here") and not is_hub_name("runs/a/b")


def test_on_the_command_line(small: Small, hub: Hub, call) -> None:
    """What a dry run lists is what is published."""
    code, out, _ = call(
        "run", "push", small.run.path, "user/digits", "--dry-run", "--no-picture", "--no-images", "--json"
    )
    assert code == 0 and not hub.repos
    listed = json.loads(out)["bytes"]
    code, out, _ = call("run", "push", small.run.path, "user/digits", "--no-picture", "--no-images", "--private")
    assert code == 0 and 'from_pretrained("user/digits")' in out
    assert set(hub.files("user/digits")) == set(listed)
    code, _, err = call("run", "push", small.run.path, "digits", "--no-picture")
    assert code == 2 and "write user/name" in err


# --- data sets: universes and benchmarks ---


def test_a_universe_there_and_back(small_universe: ab.Universe, hub: Hub, tmp_path: Path) -> None:
    """What is fetched is the universe, object by object, and nothing is amiss with it."""
    address = ab.push_universe(small_universe, "user/landscapes", license="cc-by-4.0")
    assert address.startswith(hub.url)
    files = hub.files("user/landscapes", "datasets")
    _, header, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"
    for told in (small_universe.digest, 'fetch_universe("user/landscapes")', f"`{small_universe.unit_ids[0]}`"):
        assert told in text
    at = Path(small_universe.url)
    assert all(body == (at / name).read_bytes() for name, body in files.items() if name != "README.md")
    fetched = ab.fetch_universe("user/landscapes")
    assert isinstance(fetched, ab.Universe) and fetched.digest == small_universe.digest and check(fetched.url) == []
    np.testing.assert_array_equal(fetched.distances(), small_universe.distances())
    np.testing.assert_array_equal(fetched.training.images, small_universe.training.images)


def test_a_screened_universe_there_and_back(small: Small, hub: Hub, tmp_path: Path) -> None:
    few, here = ab.Sampling("ddim", 2), ab.Execution(workers=0, quiet=True)
    screen = ab.screen_universe(small.run, [0], out=tmp_path / "s.zarr", share=0.7, sampling=few, execution=here)
    ab.push_universe(tmp_path / "s.zarr", "user/screen")
    assert b"screened universe" in hub.files("user/screen", "datasets")["README.md"]
    fetched = ab.fetch_universe("user/screen")
    np.testing.assert_array_equal(fetched.distances(), screen.distances())


def test_a_benchmark_there_and_back(small_universe: ab.Universe, hub: Hub, tmp_path: Path) -> None:
    bundle = ab.export_benchmark(small_universe, tmp_path / "bundle", title="Digits")
    ab.push_benchmark(bundle, "user/benchmark", revision="main")
    folder = ab.fetch_benchmark("user/benchmark")
    assert {path.name for path in folder.iterdir()} == {path.name for path in bundle.glob("[!.]*")}
    hub.commit("user/benchmark", {"units.parquet": b"torn"}, "datasets")
    with pytest.raises(StoreError, match=r"units.parquet is missing or damaged"):
        ab.fetch_benchmark("user/benchmark")
    (bundle / "units.parquet").write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"units.parquet is missing or damaged"):
        ab.push_benchmark(bundle, "user/again")
    assert "datasets/user/again" not in hub.repos


def test_what_goes_wrong_with_data_sets(small_universe: ab.Universe, hub: Hub, tmp_path: Path) -> None:
    hub.commit("user/table", {"zarr.json": b'{"attributes": {}}', "data.pt": b"pickle"}, "datasets")
    with pytest.raises(StoreError, match="'user/table' on the Hub is no universe"):
        ab.fetch_universe("user/table")
    with pytest.raises(StoreError, match="'user/table' on the Hub is no benchmark bundle"):
        ab.fetch_benchmark("user/table")
    assert "data.pt" not in hub.fetched
    with pytest.raises(StoreError, match="no repository of that name"):
        ab.fetch_universe("user/none")
    with pytest.raises(StoreError, match="there is no universe at"):
        ab.push_universe(tmp_path / "nothing.zarr", "user/x")
    with pytest.raises(SettingsError, match="write user/name"):
        ab.push_universe(small_universe, "x")
    with pytest.raises(SettingsError, match="no benchmark bundle"):
        ab.push_benchmark(tmp_path, "user/x")
    assert not {"datasets/user/x", "datasets/user/none"} & set(hub.repos)


def test_data_sets_on_the_command_line(small_universe: ab.Universe, hub: Hub, call, tmp_path: Path) -> None:
    """What a dry run lists is what is published."""
    code, out, _ = call("universe", "push", small_universe.url, "user/u", "--dry-run", "--json")
    assert code == 0 and not hub.repos
    listed = json.loads(out)["bytes"]
    code, out, err = call("universe", "push", small_universe.url, "user/u", "--private")
    assert code == 0 and 'ablatable.fetch_universe("user/u")' in out, err
    assert set(hub.files("user/u", "datasets")) == set(listed)
    ab.export_benchmark(small_universe, tmp_path / "bundle")
    code, out, _ = call("universe", "push", tmp_path / "bundle", "user/b")
    assert code == 0 and 'ablatable.fetch_benchmark("user/b")' in out
    code, _, err = call("universe", "push", tmp_path / "bundle", "user/b", "--license", "mit")
    assert code == 2 and "leave --license out" in err


def test_shared_parts_come_with_the_survivors(hub: Hub, tmp_path: Path) -> None:
    """Adapters on latents: the base and the autoencoder are fetched, and of components only those that are wanted."""
    pytest.importorskip("peft")
    from test_capabilities import CODE, made

    (tmp_path / "made").mkdir()
    run = made("lora, autoencoder", tmp_path / "made")
    push_run(run, "user/adapters", picture=False)
    model = ab.AblatablePipeline.from_pretrained("user/adapters", without=["a"])
    saw = [f"components/{number:02d}/" for number in np.flatnonzero(CODE.matrix[0])]
    assert not any(name.startswith(folder) for name in hub.fetched for folder in saw)
    assert {name.split("/")[1] for name in hub.fetched if name.startswith("shared/")} == {"base", "codec"}
    want = ab.AblatablePipeline(run)(seeds=[2], without=["a"], num_inference_steps=2, output_type="np").images
    np.testing.assert_array_equal(model(seeds=[2], num_inference_steps=2, output_type="np").images, want)
    card = hub.files("user/adapters")["README.md"].decode()
    assert "the base model is 'base'" in card and "the codec is 'codec'" in card
