"""The files in `deploy/` are what their readers take; nothing here starts a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

DEPLOY = Path(__file__).parent.parent / "deploy"


FIELDS = {  # of a RayCluster and of pods: KubeRay refuses others, or passes over them in silence
    "spec": {"headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"},
    "head": {"rayStartParams", "template", "serviceType", "enableIngress"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"},
    "pod": {"containers", "volumes", "nodeSelector", "tolerations"},
    "container": {"name", "image", "resources", "volumeMounts", "env", "command", "args"},
}


def test_the_ray_cluster_has_no_field_that_kuberay_does_not_know() -> None:
    spec: Any = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())["spec"]
    assert spec.keys() <= FIELDS["spec"] and spec["headGroupSpec"].keys() <= FIELDS["head"]
    assert all(group.keys() <= FIELDS["worker"] for group in spec["workerGroupSpecs"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group["template"].keys() <= {"metadata", "spec"} and group["template"]["spec"].keys() <= FIELDS["pod"]
        for container in group["template"]["spec"]["containers"]:
            assert container.keys() <= FIELDS["container"]
            assert container["resources"].keys() == {"limits", "requests"}
    assert spec["enableInTreeAutoscaling"] is True and all(g["replicas"] == 0 for g in spec["workerGroupSpecs"])


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
