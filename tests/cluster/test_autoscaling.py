"""Ray's real autoscaler with nodes that are processes: a run's demand brings them up from none, and they go when idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.machines import ROOT, Machines, lacking, wait_until
from cluster.runs import SCENARIO

MODE = {"RAY_AUTH_MODE": "disabled"}

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(lacking() != "", reason=lacking())]


def test_a_run_brings_up_the_nodes_that_it_needs_and_they_go_when_idle() -> None:
    with Machines({"node": "10.77.1.10"}, "10.77.1.1", 24) as machines:

        def cpus() -> list[int]:
            """How many the cluster had, one after another; empty while there is none."""
            return [int(line) for line in machines.run("node", "touch ~/cpus; cat ~/cpus").split() if line.isdigit()]

        machines.start("node", f"python {Path(__file__).with_name('fake_autoscaler.py')} >~/cpus 2>~/errors", **MODE)
        wait_until(lambda: cpus() == [0], 120, "a cluster without CPUs")
        machines.run("node", f"cd {ROOT}; python -m scarcity_ray.run {SCENARIO} --out ~/seed", seconds=200, **MODE)
        assert max(cpus()) >= 2
        wait_until(lambda: cpus()[-1] == 0, 120, "without CPUs again")
