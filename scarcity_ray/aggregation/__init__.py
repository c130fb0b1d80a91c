"""Aggregators beside the exact mean: one a file, registered under the `kind` that YAML names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scarcity_ray.core.aggregation import AGGREGATORS, Aggregator

AGGREGATORS.collect(__name__)

if TYPE_CHECKING:
    AnyAggregator = Aggregator
else:
    AnyAggregator = AGGREGATORS.annotation()

__all__ = ["Aggregator", "AnyAggregator"]
