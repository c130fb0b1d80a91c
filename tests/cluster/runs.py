"""The hello-world scenario, and what its results must be wherever it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cluster.machines import ROOT

SCENARIO = "scenarios/seed.yaml"


def on_this_machine(out: Path, rounds: int = 5) -> Path:
    """Runs it here in one process, without Ray, and returns `out`. rounds: of each strategy."""
    changes = ("--set", "execution.ray=false", "--set", f"rounds={rounds}")
    command = [sys.executable, "-m", "scarcity_ray.run", SCENARIO, *changes, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out


def hashes(run: Path) -> dict[str, str]:
    """Each strategy's result_hash."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {name: strategy["result_hash"] for name, strategy in summary["strategies"].items()}
