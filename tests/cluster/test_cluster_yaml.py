"""Every cluster that cluster.yaml describes passes Ray's check and ours; a wrong key, in any place, is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from cluster.checks import pinned_ray, problems, variants

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
VARIANTS = variants(TEXT)
NAMES = ["aws", "aws and docker", "gcp", "gcp and docker", "azure", "azure and docker", "local"]


@pytest.fixture(autouse=True)
def _home_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_it_describes_these_clusters_and_the_first_as_it_stands() -> None:
    assert list(VARIANTS) == NAMES
    assert problems(TEXT, ROOT) == []
    assert "type: aws" in TEXT.replace("#   type", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_passes(name: str) -> None:
    assert problems(VARIANTS[name], ROOT) == []


def test_what_it_installs_is_what_the_project_asks_for() -> None:
    asked = dict(re.findall(r'^    "(ray|torch)(\W[^"]*)",$', PYPROJECT, re.M))
    assert pinned_ray() in SpecifierSet(asked["ray"])
    assert f"'torch{asked['torch']}'" in TEXT


BROKEN = [
    ("aws", "  region: us-west-2", "  regoin: us-west-2", "provider.regoin"),
    ("aws", "type: aws", "type: amazon", "provider.type"),
    ("aws", "idle_timeout_minutes: 5", "idle_timeout: 5", "idle_timeout"),
    ("aws", "idle_timeout_minutes: 5", "idle_timeout_minutes: 5\nidle_timeout_minutes: 9", "idle_timeout_minutes: stands twice"),
    ("aws", "    min_workers: 0", "    min_workers: 0\n    min_workers: 1", "min_workers: stands twice"),
    ("aws", "    min_workers: 0", "    min_worker: 0", "min_worker"),
    ("aws", "    min_workers: 0", "    min_workers: 1", "worker.min_workers"),
    ("aws", "max_workers: 8\nprovider", "max_workers: 8\nmin_workers: 2\nprovider", "min_workers: at the top"),
    ("aws", "resources: {CPU: 0}", "resources: {CPU: 2}", "head.resources.CPU"),
    ("aws", "resources: {CPU: 8}", "resources: {CPU: 7.5}", "resources.CPU: 7.5"),
    ("aws", "resources: {CPU: 8}", "resources: {}", "worker.resources.CPU"),
    ("aws", "head_node_type: head", "head_node_type: boss", "head_node_type"),
    ("aws", "      ImageId: ami-0cf2b4e024cdb6960\n", "", "node_config.ImageId"),
    ("aws", "cache_stopped_nodes: false", "cache_stopped_nodes: true", "provider.cache_stopped_nodes"),
    ("aws", "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "lacks --autoscaling-config"),
    ("aws", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "lacks --dashboard-host=127.0.0.1"),
    ("aws", "RAY_gcs_storage=rocksdb", "RAY_gcs_storage=redis", "lacks RAY_gcs_storage=rocksdb"),
    ("aws", "RAY_gcs_storage_path", "RAY_GCS_STORAGE_PATH", "lacks RAY_gcs_storage_path"),
    ("aws", "--num-cpus=0", "", "lacks --num-cpus=0"),
    ("aws", "$RAY_HEAD_IP:6379", "10.0.0.1:6379", "lacks --address=$RAY_HEAD_IP"),
    ("aws", "unset OMP_NUM_THREADS;", "true;", "lacks unset OMP_NUM_THREADS"),
    ("aws", "ulimit -n 65536 2>/dev/null || ulimit -n $(ulimit -Hn);", "", "lacks ulimit -n"),
    ("aws", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token"),
    ("aws", " && chmod 600 ~/.ray/auth_token", "", "chmod 600 ~/.ray/auth_token"),
    ("aws", "  ~/.ray/auth_token: ~/.ray/auth_token", "", "file_mounts: lack ~/.ray/auth_token"),
    ("aws", "scenarios: scenarios", "scenarios: scenarois", "file_mounts.~/scarcity_ray/scenarios: scenarois"),
    ("aws", "-e ~/scarcity_ray'[real]'", "", "pip install -e ~/scarcity_ray"),
    ("aws", "ray[default]==2.60.0", "ray[default]==2.40.0", "install ray 2.40.0"),
    ("aws", "ray[default]==2.60.0", "ray[default]", "install ray of any version"),
    ("gcp", "  project_id:", "  project:", "provider.project"),
    ("azure", "  location:", "  region:", "provider.region"),
    ("gcp and docker", "run_options", "run_option", "run_option"),
    ("gcp and docker", "image: rayproject/ray:2.60.0", "image: rayproject/ray:2.9.0", "docker.image"),
    ("local", "  worker_ips:", "  workers:", "worker_ips"),
    ("local", "RAY_enable_autoscaler_v2=0", "RAY_enable_autoscaler_v2=1", "lacks RAY_enable_autoscaler_v2=0"),
    ("local", "rsync_exclude:", "rsync_ignore:", "rsync_ignore"),
]


@pytest.mark.parametrize(("name", "right", "wrong", "named"), BROKEN, ids=[f"{name}: {named}" for name, _, _, named in BROKEN])
def test_a_mistake_is_named(name: str, right: str, wrong: str, named: str) -> None:
    text = VARIANTS[name]
    assert right in text
    found = problems(text.replace(right, wrong), ROOT)
    assert any(named in problem for problem in found), found


def test_yaml_that_is_none_is_a_problem_too() -> None:
    assert problems("- a list", ROOT)
    assert problems("provider: [", ROOT)
