"""Screening: which clients' messages would spoil what all others learn, found from the messages alone.

Two mistakes of honest clients are looked for: one client takes part under two names, and a client gives columns in another unit. The latter
spoils the common head, the former counts a client twice.

**Units.** Of each client the mean squares of each feature, of all features, and of its targets are compared with the median over clients,
on a log scale, in units of the median absolute deviation or, if it is larger, the distance of the upper quartile (Huber and Ronchetti,
"Robust Statistics", 2009): up to a quarter of the clients may be wrong without hiding each other. Mean squares are taken about the median
of clients' means, so a common offset hides nothing. This alone would accuse honest clients: the largest hospital, the only site of its
kind. So a client is found only if, in addition, the head of all clients that are not suspected predicts it far worse than no head at all
would, and by the same rule worse than those clients under heads without them. A client of another group has targets of the usual size, and
one far outside that follows the same law is predicted.

**Copies.** See ensemble.copies.

What is not found. A unit that is too small: it costs the others little (benchmarks/README.md), and small mean squares are common among
honest clients with few rows. A unit ten times too large: its squares are 100 times as large, as those of honest clients may be. Of waves
(`representation` without inputs) a single wrong column, where others spread as widely: a survey has one sum of squares. What spoiled the
means and deviations of a table stays in all clients' inputs; they are the same up to an offset and a scale, which a linear head absorbs,
and a bandwidth without the wrong client does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from scarcity_ray.ensemble.copies import copies
from scarcity_ray.ensemble.moments import Packing
from scarcity_ray.ensemble.ridge import all_rows, choose_strength, fit, rows_of

Reason = Literal["copy", "inputs", "targets"]

_RATIO, _DEVIATIONS = math.log(100.0), 6.0
"""A mean square is suspect above both: so many times the median, and so many deviations above it. Ten times the unit has the square 100."""
_ALONE_RATIO, _ALONE_DEVIATIONS = math.log(2500.0), 8.0
"""The same for surveys, where no head can say whether the suspicion is right."""
_OUTSIDE = 10.0  # times the median mean square about 0: the waves of a representation are bounded, however little they vary among others
_WORSE = 10.0  # times the variance of targets by which the others' head must miss those of a suspect
_FEWEST = 5  # clients, for a median of the others to mean anything
_LEAST = 1e-300  # in place of 0, for logs
_ROUNDING = 1e-6  # share of a mean square that float32 sums do not determine
_NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True)
class Finding:
    """What is wrong with a client's message.

    reason: copy: of another client's; inputs, targets: their mean squares. of: for a copy the place of the client that stays.
    times: by what factor the root mean square differs from the others', for a unit.
    """

    reason: Reason
    of: int | None = None
    times: float | None = None


@dataclass(frozen=True)
class Screened:
    """What M messages count.

    weights: float64 `[M]`, 1 where nothing is wrong, 0 for a copy, and between for a unit, where it falls with the square of the excess
    over what is plausible: so the influence of the message, weight times size, falls to 0 as the mistake grows (a redescending weight:
    Hampel, Ronchetti, Rousseeuw and Stahel, "Robust Statistics", 1986). findings: by the place of the client.
    """

    weights: NDArray[np.float64]
    findings: dict[int, Finding] = field(default_factory=dict)

    @property
    def sound(self) -> NDArray[np.bool_]:
        """`[M]`, whether nothing is wrong."""
        found: NDArray[np.bool_] = self.weights == 1
        return found

    def of(self, ids: NDArray[np.int64], others: NDArray[np.int64]) -> Screened:
        """The same of clients `others [k]`, in their order; ids: those it is of now `[M]`, rising. Nothing is wrong with new ones."""
        _, here, there = np.intersect1d(ids, others, return_indices=True)
        weights = np.ones(len(others))
        weights[there] = self.weights[here]
        place = dict(zip(here.tolist(), there.tolist(), strict=True))
        return Screened(weights, {place[client]: finding for client, finding in self.findings.items() if client in place})


def screen(
    packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], surveyed: Screened | None = None, times: int = 1
) -> Screened:
    """Screens the messages `[M, size]` of clients with `samples [M]` rows.

    surveyed: what the same clients' surveys have shown already. times: as in `ridge.rows_of`. Where less than half of the clients are
    beyond suspicion, nobody's unit is judged, and where fewer than two would be left, nobody is found: it cannot be said who is wrong.
    """
    weights, findings = np.ones(len(rows)), dict[int, Finding]()
    if surveyed is not None:
        weights, findings = surveyed.weights.copy(), dict(surveyed.findings)
    for copy, original in copies(packing, rows, samples).items():
        weights[copy], findings[copy] = 0.0, Finding("copy", original)
    sizes = _sizes(packing, rows, samples)
    suspected = np.flatnonzero((weights == 1) & np.any([size.excess > 0 for size in sizes.values()], axis=0))
    others = np.setdiff1d(np.flatnonzero(weights == 1), suspected)
    if len(suspected) and 2 * len(others) >= len(rows) >= _FEWEST:
        for place, missed in zip(suspected.tolist(), _missed(packing, rows, samples, others, suspected, times).tolist(), strict=True):
            if missed > 0:
                reason = max(sizes, key=lambda name: float(sizes[name].excess[place]))
                weights[place] = math.exp(-2 * max(missed, float(sizes[reason].excess[place])))
                findings[place] = Finding(reason, times=float(sizes[reason].times[place]))
    return Screened(weights, findings) if (weights == 1).sum() >= 2 else Screened(np.ones(len(rows)))


def screen_surveys(surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> Screened:
    """Screens surveys `[k, d + 1]` (see ensemble.representation) of clients with `samples [k]` rows, by the mean square of their inputs."""
    sums, within = surveys[:, :-1].astype(np.float64), surveys[:, -1].astype(np.float64)
    squares = within + np.square(sums).sum(1) / np.maximum(samples, 1)
    centre = np.median(sums / samples[:, None], axis=0)
    about = squares - 2 * sums @ centre + samples * (centre @ centre)
    size = _Size.of((about / samples)[:, None], (squares / samples)[:, None], _ALONE_RATIO, _ALONE_DEVIATIONS)
    found = np.flatnonzero(size.excess > 0).tolist()
    return Screened(np.exp(-2 * size.excess.clip(0)), {place: Finding("inputs", times=float(size.times[place])) for place in found})


# -- units -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    """How much larger clients' mean squares are than others', `[M]`: excess, the log of what they have beyond a plausible mean square;
    times, the root of their ratio to the median. Of several mean squares the one with the largest excess counts."""

    excess: NDArray[np.float64]
    times: NDArray[np.float64]

    @classmethod
    def of(cls, squares: NDArray[np.float64], whole: NDArray[np.float64], ratio: float = _RATIO, deviations: float = _DEVIATIONS) -> _Size:
        """From mean squares `[M, k]` about a centre, and about 0: what is smaller than the rounding of float32 sums is not compared."""
        known = squares > _ROUNDING * np.median(whole, axis=0)
        logs = np.log(squares, where=known, out=np.full(squares.shape, np.nan))
        enough = known.sum(0) >= _FEWEST
        excess, times = np.full(len(squares), -np.inf), np.ones(len(squares))
        if enough.any():
            middle, bound = _bound(logs[:, enough], ratio, deviations)
            bound = np.maximum(bound, np.log(_OUTSIDE * np.median(whole[:, enough], axis=0).clip(_LEAST)))
            over = np.where(known[:, enough], logs[:, enough] - bound, -np.inf)
            most = over.argmax(1)[:, None]
            excess = np.take_along_axis(over, most, 1)[:, 0]
            times = np.exp(np.nan_to_num(np.take_along_axis(logs[:, enough] - middle, most, 1)[:, 0]) / 2)
        return cls(excess, times)


def _bound(logs: NDArray[np.float64], ratio: float = _RATIO, deviations: float = _DEVIATIONS) -> tuple[NDArray[Any], NDArray[Any]]:
    """The median of logs of mean squares over clients (NaN: unknown), and what is still plausible, for each column."""
    middle = np.nanmedian(logs, axis=0)
    above = np.nanquantile(logs, 0.75, axis=0) - middle  # they are skewed where levels differ between clients, as those of counts do
    spread = _NORMAL * np.maximum(above, np.nanmedian(np.abs(logs - middle), axis=0))
    few = 1 + _FEWEST / np.isfinite(logs).sum(0)  # the spread of few clients is uncertain
    return middle, middle + np.maximum(ratio, deviations * few * spread)


def _sizes(packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64]) -> dict[Reason, _Size]:
    """Of inputs: each feature and all together. Of targets: all together; classes have no unit."""
    width, outputs, count = packing.width, packing.outputs, samples[:, None].astype(np.float64)
    ends = np.cumsum(np.arange(width, 0, -1))  # of the rows of the upper triangle
    starts = np.concatenate([[0], ends[:-1]])
    found = dict[Reason, _Size]()
    if width > 1:
        whole, means = rows[:, starts[:-1]] / count, rows[:, ends[:-1] - 1] / count
        centre = np.median(means, axis=0)
        about = whole - 2 * means * centre + centre**2
        about, whole = (np.column_stack([each, each.sum(1)]) for each in (about, whole))
        found["inputs"] = _Size.of(about, whole)
    if packing.task == "regression":
        whole, means = rows[:, -1:] / count, rows[:, -1 - outputs : -1] / count
        centre = np.median(means, axis=0)
        found["targets"] = _Size.of(whole - 2 * means @ centre[:, None] + centre @ centre, whole)
    return found


def _missed(
    packing: Packing,
    rows: NDArray[np.float32],
    samples: NDArray[np.int64],
    others: NDArray[np.int64],
    suspected: NDArray[np.int64],
    times: int,
) -> NDArray[np.float64]:
    """How much worse the others' head predicts each suspect than is plausible: the log of the ratio of squared errors, `[suspects]`."""
    total, clients = packing.total(rows[others], samples[others]), all_rows(packing, rows[others], samples[others], times)
    strength, left_out = choose_strength(total, clients)
    variance = float(total.square - total.cross[-1].square().sum() / total.samples) / float(total.samples * packing.outputs)
    if not variance > 0:
        return np.full(len(suspected), -np.inf)  # nothing to predict
    errors = [(e.square().sum((1, 2)) + part.rest) / part.numbers for part, e in zip(clients, left_out.residuals, strict=True)]
    head, missed = fit(total, strength), np.empty(len(suspected))
    _, bound = _bound(torch.cat(errors).clamp(min=_ROUNDING * variance).log().numpy())
    for place, client in enumerate(suspected):
        one = rows_of(packing.unpack(rows[[client]], samples[[client]]), times)
        error = float((one.targets - one.features @ head).square().sum() + one.rest.sum()) / float(one.numbers)
        missed[place] = math.log(max(error, _ROUNDING * variance)) - max(float(bound), math.log(_WORSE * variance))
    return missed
