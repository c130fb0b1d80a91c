"""The clients to whom a turn costs the smallest part of their energy. After Arouj and Abdelmoniem, "Towards Energy-Aware Federated

Learning on Battery-Powered Clients", FedEdge 2022 (EAFL), whose power term is the battery left after a round.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Selection, State


@SELECTIONS.register
class Energy(Selection):
    """The clients that can pay for the most further turns from their battery and their budget of joules; those on mains first, by rising
    joules of a turn."""

    kind: Literal["energy"] = "energy"
    needs: ClassVar[str] = "energy"

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """By falling turns left, then by rising joules."""
        joules = candidates.joules
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(joules > 0, candidates.costs.joules_left / joules, np.inf)
        chosen = candidates.best(left, -joules)
        return chosen, candidates.steps[chosen]
