"""A good scenario to be spoiled, and the problems that are found then."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from scarcity_ray.scenario import Diagnostic, ScenarioError, load

GOOD = dedent("""\
    name: good
    seed: 7
    rounds: 60
    data:
      source: {kind: digits}
      clients: 100
      partition: {kind: dirichlet, alpha: 0.3}
      test_fraction: 0.5
    model: {kind: mlp, hidden: [32]}
    local: {epochs: 5, batch_size: 8, lr: 0.3}
    strategies:
      - {kind: local_only}
      - {kind: fed_avg, fraction: 0.1}
      - {kind: sf_hfe, representation: {kind: random_fourier, features: 256}}
    evaluation: {every: 5, clients: all}
    execution: {ray: true, cpus: auto}
""")


def problems_of(path: Path, text: str, overrides: tuple[str, ...] = ()) -> tuple[Diagnostic, ...]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(path, overrides)
    return caught.value.problems


def dotted(problem: Diagnostic) -> str:
    return ".".join(map(str, problem.path))
