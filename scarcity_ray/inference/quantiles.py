"""Quantiles of a client's gain in the light of all clients' gains: of the posterior that `shrinkage` finds, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

Floats = NDArray[np.float64]

_LEAST = np.finfo(np.float64).tiny  # the prior may have no weight left above or below 0


class Half(NamedTuple):
    """The part of the posterior above 0: a mixture of N(g, s^2), each held between 0 and a width. The part below 0 is that of the
    mirrored gains.

    g, s: `[clients]`, gains and their standard errors. widths: `[c]`, rising. weights: `[c]`, of the prior's uniforms from 0 to a
    width. density: `[clients, c]`, log density of g under each of them. evidence: `[clients]`, log density of g under the whole prior.
    """

    g: Floats
    s: Floats
    widths: Floats
    weights: Floats
    density: Floats
    evidence: Floats

    @property
    def chance(self) -> Floats:
        """Posterior chance of each part of the mixture, `[clients, c]`."""
        return np.asarray(self.weights * np.exp(self.density - self.evidence[:, None]))

    def inverse(self, mass: Floats) -> Floats:
        """The gains `[clients]` below which, and above 0, the posterior has such a mass.

        Between two neighbouring widths the mass below x is that of all narrower parts, plus a multiple of
        Phi((x - g) / s) - Phi(-g / s).
        """
        narrower = np.cumsum(self.chance, axis=1)
        slopes = np.cumsum((self.weights / self.widths)[::-1])[::-1]  # of the parts from each width on
        at_width = narrower + np.exp(self.density + np.log(self.widths) - self.evidence[:, None]) * np.append(slopes[1:], 0.0)
        place = np.minimum((at_width < mass[:, None]).sum(1), len(self.widths) - 1)
        before = np.where(place > 0, np.take_along_axis(narrower, np.maximum(place - 1, 0)[:, None], axis=1)[:, 0], 0.0)
        with np.errstate(divide="ignore"):
            inside = np.log(np.maximum(mass - before, 0.0)) - np.log(np.maximum(slopes[place], _LEAST)) + self.evidence
        start = -self.g / self.s
        below = ndtri_exp(np.minimum(np.logaddexp(log_ndtr(start), inside), 0.0))
        with np.errstate(divide="ignore"):
            above = -ndtri_exp(log_ndtr(-start) + np.log1p(-np.exp(np.minimum(inside - log_ndtr(-start), 0.0))))
        found = self.g + self.s * np.where(start > 0, above, below)  # each from the tail in which it is exact
        return np.asarray(np.clip(found, np.append(0.0, self.widths)[place], self.widths[place]))


def quantile(up: Half, down: Half, share: float) -> Floats:
    """The gains `[clients]` below which the posterior has a share of its mass. up, down: its parts above and below 0; the rest is no
    gain."""
    gains, losses = up.chance.sum(1), down.chance.sum(1)
    loss, gain = -down.inverse(np.maximum(losses - share, 0.0)), up.inverse(np.maximum(share - (1 - gains), 0.0))
    return np.asarray(np.select([share < losses, share <= 1 - gains], [loss, np.zeros(len(gain))], gain))
