"""The shipped cluster.yaml, made fit for machines of namespaces: addresses, keys and times change, what is done on them does not."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.checks import variants
from cluster.machines import ROOT, Machines

OBJECT_STORE = 300_000_000
"""Bytes a node; each of the machines would take its share of the whole memory, which they have in common."""


def shipped(name: str, machines: Machines) -> dict[str, Any]:
    """A variant with the machines' key and smaller object stores; provider and machines' types are the caller's to change."""
    config: dict[str, Any] = yaml.safe_load(variants((ROOT / "cluster.yaml").read_text(encoding="utf-8"))[name])
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(machines.key)}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[commands] = [line.replace("ray start", f"ray start --object-store-memory={OBJECT_STORE}") for line in config[commands]]
    quick = "export AUTOSCALER_UPDATE_INTERVAL_S=1 AUTOSCALER_HEARTBEAT_TIMEOUT_S=20"
    config["head_start_ray_commands"][-1] = f"{quick}; {config['head_start_ray_commands'][-1]}"
    return config


def write(config: dict[str, Any], machines: Machines) -> str:
    """The path, known to all machines, of the cluster's file."""
    path = machines.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config, width=10_000, sort_keys=False))
    return str(path)
