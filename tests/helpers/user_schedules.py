"""Schedules of a user's own, as CONTRIBUTING.md shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.schedules import Uniform


class Dropout(Uniform):
    """After their work so many of the clients drop out, each by itself in each round."""

    kind: str = "import"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def next(self, before: RoundInput) -> RoundPlan:
        plan = super().next(before)
        draws = hash64(before.seed, "dropout", plan.ids, before.round) / 2.0**64
        return replace(plan, lost=draws < self.share)


class LateHalf(Uniform):
    """Clients of odd id start from the model of the round before, with one step."""

    kind: str = "import"

    @property
    def max_staleness(self) -> int:
        return 1

    def next(self, before: RoundInput) -> RoundPlan:
        plan = super().next(before)
        odd = plan.ids % 2 == 1
        return replace(plan, staleness=np.where(odd, min(1, before.oldest), 0), steps=np.where(odd, 1, plan.steps))
