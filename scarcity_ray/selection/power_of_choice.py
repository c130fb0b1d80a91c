"""Power-of-Choice. Cho, Wang and Joshi, "Towards Understanding Biased Client Selection in Federated Learning", AISTATS 2022, section 4,

the variant rpow-d, which asks nobody for a loss before a round.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.schedule import Ids
from scarcity_ray.core.selection import SELECTIONS, Candidates, Heard, Selection, State
from scarcity_ray.core.spec import SpecError
from scarcity_ray.selection.draws import drawn_by


@SELECTIONS.register
class PowerOfChoice(Selection):
    """Some clients are drawn with chances by their rows, and of these the ones with the highest loss are selected.

    A client's loss is the mean training loss of the last round in which it was heard; that of a client never heard is infinite. Clients
    send it with their update, 4 bytes.
    """

    kind: Literal["power_of_choice"] = "power_of_choice"
    learns: ClassVar[str] = "loss"
    candidates: Annotated[int | None, Field(ge=1, description="d, clients drawn first; null: twice as many as are selected")] = None

    def refused(self, count: int) -> SpecError | None:
        """Fewer candidates than are selected."""
        if self.candidates is None or self.candidates >= count:
            return None
        return SpecError(("candidates",), self.candidates, f"a round takes {count} of them: draw at least as many")

    def start(self, clients: int) -> State:
        """Nobody known."""
        return {"loss": np.full(clients, np.inf)}

    def learned(self, state: State, heard: Heard) -> State:
        """Each client's last loss."""
        loss = state["loss"].copy()
        trained = ~np.isnan(heard.loss)
        loss[heard.ids[trained]] = heard.loss[trained]
        return {"loss": loss}

    def select(self, state: State, candidates: Candidates) -> tuple[NDArray[np.int64], Ids]:
        """The highest losses of those drawn."""
        drawn = max(candidates.count, self.candidates or 2 * candidates.count)
        among = drawn_by(candidates, candidates.rows.astype(np.float64), drawn, "power of choice")
        loss = np.full(len(candidates.ids), -np.inf)
        loss[among] = state["loss"][candidates.ids[among]]
        chosen = candidates.best(loss)
        return chosen, candidates.steps[chosen]
