"""The files in `deploy/` are what their readers take; nothing here starts a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

DEPLOY = Path(__file__).parent.parent / "deploy"


def test_the_ray_cluster_has_what_kuberay_requires() -> None:
    """The fields that its definition (ray.io/v1 RayCluster) requires, and one GPU for every worker."""
    found: Any = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayCluster") and found["metadata"]["name"]
    spec = found["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "they become arguments"
        claimed = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] and {mount["name"] for mount in container["volumeMounts"]} <= claimed
            assert container["resources"]["limits"] == container["resources"]["requests"]
    for group in groups[1:]:
        assert group["groupName"] and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_slurm_script_is_one() -> None:
    text = (DEPLOY / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=False).returncode == 0
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    commands = [k for k, line in enumerate(text.splitlines()) if line and not line.startswith("#")]
    assert options and text.splitlines().index(options[-1]) < commands[0], "sbatch stops reading at the first command"
