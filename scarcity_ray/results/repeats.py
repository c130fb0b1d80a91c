"""What another seed of a finished run brings."""

from __future__ import annotations

import json

from scarcity_ray.data import Data
from scarcity_ray.results.reading import believing
from scarcity_ray.results.results import Results


def repeats_of(results: Results) -> str:
    """A word of `Data.repeats`, by the scenario of a run: summaries of older runs do not have it. Raises RunError."""
    scenario = results.scenario
    with believing(results.directory / "scenario.yaml"):
        return Data.model_validate_json(json.dumps(scenario["data"])).repeats
