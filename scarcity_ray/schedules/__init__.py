"""Who takes part in a round: one rule a file, registered under the `kind` that YAML names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scarcity_ray.core.schedule import SCHEDULES, Schedule
from scarcity_ray.schedules.uniform import Uniform

SCHEDULES.collect(__name__)

if TYPE_CHECKING:
    AnySchedule = Schedule
else:
    AnySchedule = SCHEDULES.annotation()

__all__ = ["AnySchedule", "Schedule", "Uniform"]
