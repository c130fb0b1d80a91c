"""The strategies that YAML names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.insight_exchange import InsightExchange
from scarcity_ray.strategies.local_only import LocalOnly
from scarcity_ray.strategies.pooled import Pooled
from scarcity_ray.strategies.sf_hfe import SfHfe

AnyStrategy = Annotated[LocalOnly | Pooled | FedAvg | InsightExchange | SfHfe, Field(discriminator="kind")]

__all__ = ["AnyStrategy", "FedAvg", "InsightExchange", "LocalOnly", "Pooled", "SfHfe"]
