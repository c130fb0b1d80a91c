"""The shipped cluster.yaml with Ray's real AWS provider. In place of AWS moto answers, and instances are machines made of namespaces."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster.machines import ROOT, Machines, lacking, wait_until
from cluster.runs import SCENARIO, hashes, on_this_machine
from cluster.shipped import shipped, write

# Moto hands out the addresses of a subnet in this order.
ADDRESSES = {"laptop": "172.31.250.1", "head": "172.31.0.4", "worker1": "172.31.0.5", "worker2": "172.31.0.6"}
SETTINGS = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESSES['laptop']}:5000",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_EC2_METADATA_DISABLED": "true",
}
REASON = lacking() or ("" if find_spec("moto") and find_spec("boto3") else "needs boto3 and moto: pip install -e '.[cluster]'")
COUNT = """
import boto3
pages = boto3.client("ec2", region_name="us-west-2").describe_instances()["Reservations"]
print(sum(instance["State"]["Name"] == "running" for page in pages for instance in page["Instances"]))
"""

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(REASON != "", reason=REASON)]


def test_workers_come_with_a_run_go_when_idle_and_down_ends_all(tmp_path: Path) -> None:
    with Machines(ADDRESSES, "172.31.250.254", 16) as machines:
        config = shipped("aws", machines)
        config["provider"] |= {"availability_zone": "us-west-2a", "use_internal_ips": True}
        config["idle_timeout_minutes"] = 0.5
        for node_type in config["available_node_types"].values():
            node_type["node_config"]["KeyName"] = "ours"
        config["available_node_types"]["worker"] |= {"max_workers": 2, "resources": {"CPU": 3}}
        cluster = write(config, machines)

        def laptop(command: str, seconds: float = 120) -> str:
            return machines.run("laptop", f"cd {ROOT}; {command}", seconds=seconds, RAY_AUTH_MODE="token", **SETTINGS)

        def instances() -> int:
            return int(laptop(f"python -c '{COUNT}'"))

        for name in ("head", "worker1", "worker2"):
            machines.run(name, f"echo export {' '.join(f'{key}={value}' for key, value in SETTINGS.items())} >> ~/.bashrc")
        machines.start("laptop", "moto_server -H 0.0.0.0 -p 5000 >~/moto.log 2>&1", MOTO_IAM_LOAD_MANAGED_POLICIES="true")
        laptop("until (echo >/dev/tcp/localhost/5000) 2>/dev/null; do sleep 0.2; done")

        laptop("(umask 077; ray get-auth-token --generate)")
        laptop(f"ray up -y {cluster} || ray up -y {cluster}", 400)  # Ray gives a head 30 s to start; a busy machine may take longer
        assert instances() == 1  # the head alone: nothing asks for workers
        command = f"scarcity-ray run ~/scarcity_ray/{SCENARIO} --out ~/runs/seed"
        laptop(f"ray exec {cluster} '{command}'", 500)
        laptop(f"ray rsync-down {cluster} '~/runs/seed' {machines.folder}/fetched/")
        assert hashes(machines.folder / "fetched" / "seed") == hashes(on_this_machine(tmp_path / "here"))
        wait_until(lambda: instances() == 1, 240, "alone again")
        laptop(f"ray down -y {cluster}")
        assert instances() == 0
