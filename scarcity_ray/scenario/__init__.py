"""The scenario: one YAML file that says what to simulate. This package reads and checks it."""

from scarcity_ray.scenario.conflicts import cores, unavailable
from scarcity_ray.scenario.diagnostics import Diagnostic, ScenarioError, SpecErrors
from scarcity_ray.scenario.loading import Loaded, load, parse, read, resolved, with_arrays
from scarcity_ray.scenario.schema import OBSERVED, Evaluation, Scenario, json_schema
from scarcity_ray.scenario.what_if import ScarcityRuns, scarcity_runs

__all__ = [
    "OBSERVED",
    "Diagnostic",
    "Evaluation",
    "Loaded",
    "ScarcityRuns",
    "Scenario",
    "ScenarioError",
    "SpecErrors",
    "cores",
    "json_schema",
    "load",
    "parse",
    "read",
    "resolved",
    "scarcity_runs",
    "unavailable",
    "with_arrays",
]
