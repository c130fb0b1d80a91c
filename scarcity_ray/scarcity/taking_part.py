"""Who has taken part in a run so far, why the others have not, and how the work is spread over clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.scarcity.availability import Mask
from scarcity_ray.scarcity.draws import Floats
from scarcity_ray.scarcity.ledger import REASONS, Ledger

UNAVAILABLE, UNSELECTED, UNHEARD = "unavailable", "unselected", "unheard"
"""Why a client that may still take part has joined no round: it was never there and able to pay when the server looked for clients; it
was, and was never selected; it was selected, and each time failed, came too late, was one of more than were needed, is still at work, or
has sent a survey alone."""


@dataclass(frozen=True)
class TakingPart:
    """Values `[clients]`. joined: who was heard in a round, or has sent the message that is learned from, where each is sent once. why: of
    the others why not, one of REASONS or of the three above; None for who joined. work: floating-point operations in the rounds in which
    it was heard."""

    joined: Mask
    why: NDArray[np.object_]
    work: Floats

    @classmethod
    def of(cls, ledger: Ledger, message: str = "") -> TakingPart:
        """By what the ledger says now. message: see Answer."""
        joined = ledger.joined > 0
        if ledger.sent:  # a survey before it teaches nothing of a client
            joined = ledger.sent.get(message, np.zeros_like(joined)).copy()
        otherwise = np.where(ledger.turns > 0, UNHEARD, np.where(ledger.met, UNSELECTED, UNAVAILABLE))
        why = np.where(ledger.excluded > 0, np.array(REASONS)[ledger.excluded], otherwise).astype(object)
        why[joined] = None
        return cls(joined, why, ledger.work.copy())
