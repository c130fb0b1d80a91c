"""From all clients' moments to an ensemble: the groups of clients, each group's expert, and how clients differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.ensemble.calibration import own_residuals, temperature
from scarcity_ray.ensemble.contribution import Exact, contributions, exact_contributions, in_order
from scarcity_ray.ensemble.density import Densities
from scarcity_ray.ensemble.differing import Personal, differing
from scarcity_ray.ensemble.gate import Gate
from scarcity_ray.ensemble.grouping import group
from scarcity_ray.ensemble.label_mix import share_of_labels
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.random_coefficients import RandomCoefficients
from scarcity_ray.ensemble.ridge import LeftOut, Rows, all_rows, choose_strength, fit, penalised


@dataclass(frozen=True)
class Group:
    """The clients of one expert.

    total: their summed moments.
    fitted, strength: the moments and the ridge strength from which the expert's head is computed.
    noise: variance of an output about the prediction of its client's head.
    scale: divisor that turns scores into logits; 1 for targets.
    scatter: how clients' heads differ from the expert's; None if all clients use the expert's head.
    covariance: `[w, w]`, posterior covariance of the expert's own head, relative to the noise.
    """

    total: Moments
    fitted: Moments
    strength: float
    noise: float
    scale: float
    scatter: RandomCoefficients | None
    covariance: Tensor


@dataclass(frozen=True)
class Learned:
    """The result of learning from M messages.

    groups: one for each expert.
    members, confidence: `[M]`, the expert of each client, and the probability that it is right (from 1 / K to 1).
    whole: `[w, o]`, the head of all clients together.
    evidence: for each number of experts that was tried, see Grouping.
    separate: whether clients avoid the middle between experts, so that these are groups; see Grouping.
    label_mix: how far experts follow their clients' classes, see ensemble.label_mix; None for targets and for a single expert.
    contribution, contribution_whole: `[M]`, each client's contribution to the clients of the same expert and to all clients,
    see ensemble.contribution. exact: the former again, exact and with intervals, NaN where that would take too long.
    router: scores the experts for an input.
    """

    groups: list[Group]
    members: NDArray[np.int64]
    confidence: NDArray[np.float64]
    whole: Tensor
    evidence: Mapping[int, float]
    separate: bool | None
    label_mix: float | None
    contribution: NDArray[np.float64]
    contribution_whole: NDArray[np.float64]
    exact: Exact
    router: Densities | Gate


def learn(
    packing: Packing,
    rows: NDArray[np.float32],
    samples: NDArray[np.int64],
    *,
    experts: int | None,
    most: int,
    personal: Personal,
    router: Literal["density", "gate"],
    seed: int,
    times: int = 1,
) -> Learned:
    """Learns from the messages `[M, size]` of clients with `samples [M]` rows. The result has the same bits in every process.

    experts: number of experts; None: chosen by their groups, at most `most`.
    personal: the form of clients' differences; "auto": chosen by likelihood.
    router: the kind of router.
    times: number of messages that each row of `rows` is the mean of (see ridge.rows_of).
    Raises ValueError for fewer than two clients.
    """
    total, clients = packing.total(rows, samples), all_rows(packing, rows, samples, times)
    strength, left_out = choose_strength(total, clients)
    found = group(clients, strength, experts=experts, most=most, seed=seed)
    groups, contribution = [], np.full(len(rows), np.nan)
    exact = Exact(*torch.full((3, len(rows)), torch.nan, dtype=torch.float64))
    for k in range(found.responsibilities.shape[1]):
        members = np.flatnonzero(found.members == k)
        if len(members) == len(rows):
            own: tuple[Moments, list[Rows], float, LeftOut] = total, clients, strength, left_out
        else:
            own = _of_group(packing, rows[members], samples[members], strength, times)
        groups.append(_group(packing, *own, personal, seed))
        contribution[members] = _contributions(*own)
        exact.put(torch.from_numpy(members), exact_contributions(own[0], own[1], own[3], own[2]))
    whole = contribution if len(groups) == 1 else _contributions(total, clients, strength, left_out)
    confidence = found.responsibilities.max(axis=1)
    totals = [one.total for one in groups]
    if router == "density":
        routes: Densities | Gate = Densities.of(totals)
    else:
        routes = Gate.chosen(totals, clients, found.members[np.concatenate([part.clients for part in clients])].tolist())
    mix = share_of_labels(clients, found.members) if packing.task == "classification" else None
    return Learned(
        groups, found.members, confidence, fit(total, strength), found.evidence, found.separate, mix, contribution, whole, exact, routes
    )


def _of_group(
    packing: Packing, rows: NDArray[np.float32], samples: NDArray[np.int64], strength: float, times: int
) -> tuple[Moments, list[Rows], float, LeftOut]:
    """A group's moments, rows, strength, and leave-one-out fits. A group of one client has the strength of all clients."""
    total, clients = packing.total(rows, samples), all_rows(packing, rows, samples, times)
    if len(rows) > 1:
        return total, clients, *choose_strength(total, clients)
    alone = LeftOut([part.targets for part in clients], float(total.square / (total.samples * packing.outputs)))
    return total, clients, strength, alone


def _group(
    packing: Packing, total: Moments, clients: list[Rows], strength: float, left_out: LeftOut, personal: Personal, seed: int
) -> Group:
    found = differing(packing.task, total, clients, strength, left_out, personal)
    scale = 1.0
    if packing.task == "classification":
        own = left_out.residuals
        if found.scatter is not None:
            own = own_residuals(clients, own, found.scatter.covariance)
        scale = temperature(clients, own, seed)
    covariance = torch.linalg.inv(penalised(found.fitted, found.strength))
    return Group(total, found.fitted, found.strength, found.noise, scale, found.scatter, covariance)


def _contributions(total: Moments, clients: list[Rows], strength: float, left_out: LeftOut) -> NDArray[np.float64]:
    """Contributions in the order of the messages, `[M]`."""
    values: NDArray[np.float64] = in_order(clients, [contributions(total, clients, left_out, strength)]).numpy()
    return values
