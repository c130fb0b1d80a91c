"""A cluster whose nodes are processes of one machine, under Ray's real autoscaler: it starts with no CPUs and runs until it is ended.

Prints how many CPUs it has, at first and whenever that changes, one number a line.

Only inside a machine of machines.py: it begins with `ray stop`, which ends every Ray process that it can see.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import ray
from ray.cluster_utils import FAKE_HEAD_NODE_ID, AutoscalingCluster

_HEAD = "ray.head.default"
_NODE = {"CPU": 2, "object_store_memory": 200 << 20}


class _Cluster(AutoscalingCluster):
    def _generate_config(self, head_resources: dict[str, Any], worker_node_types: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """As Ray's own, which reads it from a file that its wheel does not have."""
        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        }
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        lists = ["initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"]
        lists += [f"{node}setup_commands" for node in ("", "head_", "worker_")] + [
            f"{node}_start_ray_commands" for node in ("head", "worker")
        ]
        return {
            "cluster_name": "fake",
            "provider": provider,
            "head_node_type": _HEAD,
            "available_node_types": worker_node_types | {_HEAD: head},
            "upscaling_speed": 1.0,
            "max_workers": 3,
            "idle_timeout_minutes": 0.2,
            "file_mounts_sync_continuously": False,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in lists},
        }


if os.path.basename(os.readlink("/proc/1/exe")) != "sshd":
    sys.exit("this runs `ray stop`: only inside a machine of machines.py")
worker = {"resources": _NODE, "node_config": {}, "min_workers": 0, "max_workers": 3}
_Cluster(head_resources={"CPU": 0}, worker_node_types={"worker": worker}).start(override_env={"AUTOSCALER_UPDATE_INTERVAL_S": "1"})
ray.init("auto", log_to_driver=False, logging_level="ERROR")
before = -1
while True:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus != before:
        print(cpus, flush=True)
    before = cpus
    time.sleep(0.2)
