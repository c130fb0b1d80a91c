"""scarcity_ray: does a federation of data-poor participants pay, for whom, and how? Answers by simulation."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Matrix products of the same rows must give the same bits at any memory address: without this, MKL chooses its code
# path by pointer alignment. It must be in the environment before the first product of the process.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scarcity_ray.actors.client import Client as Client
    from scarcity_ray.actors.expert import Expert as Expert
    from scarcity_ray.actors.meta_learner import MetaLearner as MetaLearner
    from scarcity_ray.actors.server import Server as Server
    from scarcity_ray.ensemble.router import Router as Router
    from scarcity_ray.results.results import Results as Results
    from scarcity_ray.runtime.session import Session as Session
    from scarcity_ray.runtime.simulation import resume as resume
    from scarcity_ray.runtime.simulation import simulate as simulate
    from scarcity_ray.runtime.sweeping import sweep as sweep
    from scarcity_ray.runtime.tuning import tune as tune
    from scarcity_ray.runtime.verification import verify as verify

_MODULES = {
    "Client": "scarcity_ray.actors.client",
    "Expert": "scarcity_ray.actors.expert",
    "MetaLearner": "scarcity_ray.actors.meta_learner",
    "Results": "scarcity_ray.results.results",
    "Router": "scarcity_ray.ensemble.router",
    "Server": "scarcity_ray.actors.server",
    "Session": "scarcity_ray.runtime.session",
    "resume": "scarcity_ray.runtime.simulation",
    "simulate": "scarcity_ray.runtime.simulation",
    "sweep": "scarcity_ray.runtime.sweeping",
    "tune": "scarcity_ray.runtime.tuning",
    "verify": "scarcity_ray.runtime.verification",
}

__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562), so that importing the package loads neither torch nor Ray."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
