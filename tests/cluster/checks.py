"""What is wrong with a cluster.yaml, said before any machine is paid for: Ray's own check, and the mistakes it lets through."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROVIDER_KEYS = {
    "aws": {
        *("type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "use_external_head_ip"),
        *("security_group", "cloudwatch", "key_pair", "aws_credentials"),
    },
    "gcp": {"type", "region", "availability_zone", "project_id", "gcp_credentials", "use_internal_ips", "cache_stopped_nodes"},
    "azure": {
        *("type", "location", "resource_group", "subscription_id", "availability_zone", "subnet_mask", "unique_id", "tags"),
        *("msi_name", "msi_resource_group", "use_internal_ips", "use_external_head_ip", "cache_stopped_nodes"),
    },
    "local": {"type", "head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}
"""What each of Ray's providers reads; of other keys its schema says nothing, and the provider neither."""

_BLOCK = re.compile(r"^# ---- (machines|also): (\w+) ----\n(.*?)^# ---- end \2 ----\n", re.M | re.S)


class _Strict(yaml.SafeLoader):
    """YAML in which a key may stand once: PyYAML takes the last one, and the first is lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"{key.value}: stands twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def variants(text: str) -> dict[str, str]:
    """The YAML of each cluster that the file describes: one block of machines uncommented, alone and (on a cloud) with docker."""
    blocks = [(kind, name) for kind, name, _ in _BLOCK.findall(text)]
    found = {}
    for kind, name in blocks:
        if kind == "machines":
            found[name] = _with_blocks(text, {name})
            if name != "local":
                found |= {f"{name} and {also}": _with_blocks(text, {name, also}) for kind, also in blocks if kind == "also"}
    return found


def _with_blocks(text: str, wanted: set[str]) -> str:
    def shown(match: re.Match[str]) -> str:
        body = re.sub(r"^# ?", "", match[3], flags=re.M) if match[3].startswith("# ") else match[3]
        return body if match[2] in wanted else ""

    return _BLOCK.sub(shown, text)


def problems(text: str, directory: Path) -> list[str]:
    """What is wrong with the cluster that `text` describes, each as "key: what, and what to do"; paths are taken from `directory`."""
    try:
        raw = yaml.load(text, _Strict)
    except yaml.YAMLError as error:
        return [str(error)]
    if not isinstance(raw, dict):
        return ["the file: is not a mapping"]
    provider = raw.get("provider") or {}
    if provider.get("type") not in PROVIDER_KEYS:
        return [f"provider.type: is {provider.get('type')!r}; it is one of {sorted(PROVIDER_KEYS)}"]
    prepared, refused = _by_ray(raw)
    return [
        *_of_provider(raw, provider),
        *([refused] if refused else _of_commands(prepared, provider["type"])),
        *_of_mounts(raw, directory),
    ]


def _by_ray(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    config = copy.deepcopy(raw)
    for node_type in (config.get("available_node_types") or {}).values():
        if isinstance(node_type, dict):
            node_type.setdefault("resources", {})  # `ray up` asks the cloud for them
    try:
        config = prepare_config(config)
        validate_config(config)
    except (Exception, click.ClickException) as error:
        path = ".".join(str(part) for part in getattr(error, "absolute_path", ()))
        said = getattr(error, "message", "") or str(error) or "Ray refuses the file: a local provider needs head_ip and worker_ips"
        return {}, f"{path or 'ray'}: {said.splitlines()[0]}"
    return config, ""


def _of_provider(raw: dict[str, Any], provider: dict[str, Any]) -> Iterator[str]:
    kind = provider["type"]
    for key in sorted(set(provider) - PROVIDER_KEYS[kind]):
        yield f"provider.{key}: is not known to {kind}; it is one of {sorted(PROVIDER_KEYS[kind])}"
    if kind == "local":
        return
    if "min_workers" in raw:
        yield "min_workers: at the top it is ignored on a cloud; put it into available_node_types"
    types = raw.get("available_node_types") or {}
    head = raw.get("head_node_type")
    for name, node_type in types.items():
        settings, resources = node_type.get("node_config") or {}, node_type.get("resources") or {}
        if kind == "aws" and "ImageId" not in settings:
            yield f"available_node_types.{name}.node_config.ImageId: missing; Ray's own image is too old for torch"
        if name == head and resources.get("CPU") != 0:
            yield f"available_node_types.{name}.resources.CPU: must be 0, so that no actor takes the head's time from the driver"
        if name != head and not resources.get("CPU"):
            yield f"available_node_types.{name}.resources.CPU: missing; the autoscaler must know what such a worker would bring"
        if name != head and node_type.get("min_workers", 0) > 0:
            yield f"available_node_types.{name}.min_workers: must be 0, so that idle workers go"
    if kind == "aws" and provider.get("cache_stopped_nodes", True):
        yield "provider.cache_stopped_nodes: must be false, or `ray down` leaves stopped machines, whose disks cost money"


def _of_commands(config: dict[str, Any], kind: str) -> Iterator[str]:
    """`config` is as Ray prepared it: the head's and the workers' set-up include the common one."""
    head, worker = (" ".join(config[f"{node}_start_ray_commands"]) for node in ("head", "worker"))
    needed = {
        "ray start --head": "the head never starts",
        "--autoscaling-config=~/ray_bootstrap_config.yaml": "no worker ever starts",
        "--num-cpus=0": "actors take the head's time from the driver",
        "--dashboard-host=127.0.0.1": "the dashboard may listen on the network",
        "RAY_gcs_storage=rocksdb": "the cluster's state dies with the head's process",
        "RAY_gcs_storage_path=": "the cluster's state has no place",
    }
    if kind == "local":
        needed["RAY_enable_autoscaler_v2=0"] = "Ray's second autoscaler loses workers on a local provider"
    yield from (f"head_start_ray_commands: lacks {part}, so {harm}" for part, harm in needed.items() if part not in head)
    if "$RAY_HEAD_IP" not in worker:
        yield "worker_start_ray_commands: lacks --address=$RAY_HEAD_IP:6379, so no worker finds the head"
    for node, command in (("head", head), ("worker", worker)):
        if not re.search(r"unset OMP_NUM_THREADS\b.*ray start", command):
            yield f"{node}_start_ray_commands: lacks unset OMP_NUM_THREADS before ray start, so torch has one thread in every actor"
        if not re.search(r"ulimit -n .*ray start", command):
            yield f"{node}_start_ray_commands: lacks ulimit -n before ray start, so a node with many actors runs out of files"
    yield from _of_setup(config)


def pinned_ray() -> str:
    """The version that the tests of clusters run with: the one that the extra "cluster" pins."""
    (found,) = re.findall(r'"ray\[default\]==([\d.]+)"', (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    return str(found)


def _of_setup(config: dict[str, Any]) -> Iterator[str]:
    setup = "\n".join(config["setup_commands"])
    if not re.search(r"RAY_AUTH_MODE=token\b.*>> ~/\.bashrc", setup):
        yield "setup_commands: do not export RAY_AUTH_MODE=token in ~/.bashrc, so anyone who reaches the cluster may use it"
    if "~/.ray/auth_token" not in config["file_mounts"]:
        yield "file_mounts: lack ~/.ray/auth_token, so no node has the token"
    if not re.search(r"chmod 600 ~/\.ray/auth_token", setup):
        yield "setup_commands: lack chmod 600 ~/.ray/auth_token, so every user of a node can read the token"
    if not re.search(r"pip install .*-e ~/scarcity_ray\b", setup):
        yield "setup_commands: do not install the project (pip install -e ~/scarcity_ray)"
    tested = pinned_ray()
    pinned = re.search(r"ray\[default\]==([\w.]+)", setup)
    if pinned is None or pinned[1] != tested:
        yield f"setup_commands: install ray {pinned[1] if pinned else 'of any version'}; the project is tested with {tested}"
    image = (config.get("docker") or {}).get("image")
    if image and f":{tested}-" not in image:
        yield f"docker.image: {image} does not hold ray {tested}, with which the project is tested"


def _of_mounts(raw: dict[str, Any], directory: Path) -> Iterator[str]:
    for remote, local in (raw.get("file_mounts") or {}).items():
        if not (directory / Path(str(local)).expanduser()).exists():
            yield f"file_mounts.{remote}: {local} does not exist"
