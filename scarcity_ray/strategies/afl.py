"""AFL: clients send moments once, and everybody predicts with the one ridge head that all their rows together give.

He, Tong, Fang, Sun, Zeng, Li, Chen and Zhuang, "AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained
Models", CVPR 2025; Fanì, Camoriano, Caputo and Ciccone, "Accelerating Heterogeneous Federated Learning with Closed-form
Classifiers" (Fed3R), ICML 2024.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import ServerState, ServerUpdate, State
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.ensemble.calibration import temperature
from scarcity_ray.ensemble.heads import as_rows, head_state
from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.ridge import STRENGTHS, Rows, all_rows, choose_strength, fit, leave_one_client_out, penalised, unit
from scarcity_ray.strategies.represented import SendsMoments, extended
from scarcity_ray.training.problem import Problem

_ROUNDING = 1e-6  # of float32 messages, as a share of the greatest sum of squares


@STRATEGIES.register
class Afl(SendsMoments):
    """One ridge head on a fixed representation, from the sum of the clients' moments; no training and no weights up.

    With f a row's features, z its target (a class's one-hot code), and sums over the rows of all clients, the head is

        W, b = argmin  sum |z - W^T f - b|^2 + strength |W|^2

    The intercept b is not penalised. Features are taken as they are, so strength is in units of a feature's sum of squares over
    all rows: scikit-learn's `Ridge(alpha=strength)` on the pooled rows. Moments add up, so it is the same head however the
    rows are dealt to clients, up to the rounding of the messages to float32 (a relative 6e-8 of each sum).

    AFL has each of K clients add gamma I to its Gram matrix: its law of aggregation gives the head of strength K gamma (the
    paper's gamma is 1). Its last step takes K gamma I away again: strength 0, where the head of least |W| is taken if
    several fit. (So it is for strengths below 1e-7 of a feature's mean sum of squares, which float32 messages do not resolve.)
    Fed3R keeps a strength, lambda. AFL has no intercept; Fed3R's code has one, and penalises it.

    `auto` is neither's: the strength by which the others' moments predict a client that is left out best. It is the default because
    a number means nothing before the features' scale is known. It needs two clients with rows, and classes that several have.

    column_norms (Fed3R): class c's head (W_c, b_c) is divided by |W_c|, the norm of its slopes, so that rare classes, whose
    slopes are short, are not outvoted.

    For classes outputs are `scores / scale`, one scale for all (see ensemble.calibration), so the greatest score stays the greatest.
    It is found with errors of heads fitted without the client; where there is no such head (as for a single client),
    by generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979).

    Up: the packed moments (`Packing.size`). Down: the head float32 `[width, outputs]`, already divided by the scale; before it
    what the representation needs. The run's summary has strength, scale, clients and rows.

    Privacy: the head needs the sum of moments alone; `auto` and the scale read each client's (see ensemble.moments). `unlearn`
    learns the head again from the other clients' moments.
    """

    kind: Literal["afl"] = "afl"
    sends: ClassVar[str] = 'sums over its rows ("moments"), once; no weights'
    receives: ClassVar[str] = "the one head of all clients' rows, once"
    fewest: ClassVar[int] = 2
    strength: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0)],
        Field(description="of the ridge on the sums over all rows, but not on the intercept; auto: by leaving out one client at a time"),
    ] = "auto"
    column_norms: Annotated[
        bool, Field(description="divide each class's head by the norm of its slopes, so that rare classes count (Fed3R)")
    ] = False

    @property
    def ends_early(self) -> bool:
        """After the one message of each client."""
        return True

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation.

        Raises SpecError for norms of classes in a regression, and where `auto` would leave out the only client that has rows.
        """
        if self.column_norms and problem.task == "regression":
            raise SpecError(("column_norms",), True, "the norms are of classes, and a regression has none; allowed: false")
        if self.strength == "auto" and np.count_nonzero(problem.samples) < 2:
            message = "auto leaves one client out, and needs two that have rows; allowed here: a number of at least 0"
            raise SpecError(("strength",), "auto", message)
        return super().problem(problem)

    def learned(
        self, problem: Problem, state: ServerState, ids: NDArray[np.int64], samples: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> ServerUpdate:
        """The head of the summed moments, and for classes the scale of its scores."""
        packing = self.packing(problem)
        total, clients = packing.total(rows, samples), all_rows(packing, rows, samples)
        strength = choose_strength(total, clients)[0] if self.strength == "auto" else self.strength
        head = fit(total, strength) if strength >= _least(total) else _shortest(total)
        learned: dict[str, Any] = {"strength": strength, "clients": len(rows), "rows": int(samples.sum())}
        if problem.task == "classification":
            norms = _norms(head) if self.column_norms else torch.ones(problem.outputs, dtype=torch.float64)
            scale = _scale(total, clients, strength, norms, problem.seed)
            head = head / norms / scale
            learned["scale"] = scale
        down = head.float()
        return ServerUpdate(extended(state, {"head": down}, down.numel() * down.element_size()), learned=learned, done=True)

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        """The one head for all; none before there is one."""
        return {"global": as_rows(broadcast["head"][None])} if "head" in broadcast else {}

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        """The representation and the head, by the names of `module`."""
        if "head" not in state.broadcast:
            return {}
        return {**self.module(problem, state).state_dict(), **head_state(state.broadcast["head"])}


def _least(total: Moments) -> float:
    """The least strength that float32 messages resolve, and that auto tries."""
    return float(STRENGTHS[0]) * unit(total)


def _shortest(total: Moments) -> Tensor:
    """The head `[width, outputs]` of strength 0; of several that fit, the one with the shortest slopes.

    Slopes are found about the means of the rows. Directions with less than 1e-6 of the greatest sum of squares are rounding.
    """
    gram, means = total.gram[:-1, :-1], total.gram[:-1, -1] / total.samples
    centred = gram - total.samples * torch.outer(means, means)
    floor = _ROUNDING * torch.linalg.matrix_norm(gram, 2)
    slopes = torch.linalg.pinv(centred, atol=floor, rtol=0.0, hermitian=True) @ (total.cross[:-1] - torch.outer(means, total.cross[-1]))
    return torch.cat([slopes, (total.cross[-1] / total.samples - means @ slopes)[None]])


def _norms(head: Tensor) -> Tensor:
    """Norms `[outputs]` of the slopes of a head `[width, outputs]`, in units of their mean, so that scores stay near the codes 0 and 1.

    1 where all slopes are 0, as of a class that nobody has.
    """
    norms = head[:-1].norm(dim=0)
    has = norms > 0
    return torch.where(has, norms / norms[has].mean(), torch.ones_like(norms)) if has.any() else torch.ones_like(norms)


def _scale(total: Moments, clients: list[Rows], strength: float, norms: Tensor, seed: int) -> float:
    """The temperature of the scores of a head with these norms, see ensemble.calibration.

    At the least strength that messages resolve, or more: below it their rounding would decide about left-out heads.
    """
    strength = max(strength, _least(total))
    alone = sum(len(part.rest) for part in clients) < 2  # no rows are left, but rounding may leave a head of them
    left_out = None if alone else leave_one_client_out(total, clients, strength)
    residuals = _cross_validated(total, clients, strength) if left_out is None else left_out.residuals
    normed = [part.targets - (part.targets - left) / norms for part, left in zip(clients, residuals, strict=True)]
    return temperature(clients, normed, seed)


def _cross_validated(total: Moments, clients: list[Rows], strength: float) -> list[Tensor]:
    """Residuals of the head for each client's rows, stretched as if each row was left out: by n / (n - degrees of freedom)."""
    head, inverse = fit(total, strength), torch.linalg.inv(penalised(total, strength))
    share = 1 - float((inverse * total.gram).sum() / total.samples)
    return [(part.targets - part.features @ head) / max(share, float(STRENGTHS[0])) for part in clients]
