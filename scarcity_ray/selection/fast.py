"""The fastest clients. After Nishio and Yonetani, "Client Selection for Federated Learning with Heterogeneous Resources in Mobile Edge",

ICC 2019 (FedCS), whose server takes clients in the order of the time that each adds to a round.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Selection, State


@SELECTIONS.register
class Fast(Selection):
    """The clients whose turns are expected to take the fewest seconds. What only slow clients know is never learned."""

    kind: Literal["fast"] = "fast"
    needs: ClassVar[str] = "time"

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """By rising seconds of a turn."""
        chosen = candidates.best(-candidates.seconds)
        return chosen, candidates.steps[chosen]
