"""The strategies that YAML names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.gradient_exchange import GradientExchange
from scarcity_ray.strategies.hier_fed_avg import HierFedAvg
from scarcity_ray.strategies.ifca import Ifca
from scarcity_ray.strategies.insight_exchange import InsightExchange
from scarcity_ray.strategies.local_only import LocalOnly
from scarcity_ray.strategies.per_fed_avg import PerFedAvg
from scarcity_ray.strategies.pooled import Pooled
from scarcity_ray.strategies.prototypes import Prototypes
from scarcity_ray.strategies.reptile import Reptile
from scarcity_ray.strategies.sf_hfe import SfHfe

AnyStrategy = Annotated[
    LocalOnly | Pooled | FedAvg | HierFedAvg | Ifca | Reptile | PerFedAvg | InsightExchange | GradientExchange | Prototypes | SfHfe,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyStrategy",
    "FedAvg",
    "GradientExchange",
    "HierFedAvg",
    "Ifca",
    "InsightExchange",
    "LocalOnly",
    "PerFedAvg",
    "Pooled",
    "Prototypes",
    "Reptile",
    "SfHfe",
]
