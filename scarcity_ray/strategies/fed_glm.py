"""Generalised linear models of all clients' rows, by Newton's method on summed messages.

Gaye et al., "DataSHIELD: taking the analysis to the data, not the data to the analysis", International Journal of Epidemiology 43,
2014 (ds.glm). The models: McCullagh and Nelder, "Generalized Linear Models", 2nd edition, 1989, section 2.5.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation, Words
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.ensemble.heads import as_rows
from scarcity_ray.strategies.coefficients import Fit, table
from scarcity_ray.training.glm import LARGEST, Family, Inverse, independent, message, unpacked
from scarcity_ray.training.learner import make_learner
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_MOST = 2_000  # coefficients: with so many a message has 16 MB
_WHOLE = 1e-3, 1e-6  # how far a count may lie from a whole number: by itself, and a unit of it (targets are float32)
_MOVING = 1e-3  # a last step beyond this: coefficients have no finite best value
_LONG = 12  # rounds after which steps towards a finite value are small: each squares the error of the one before


@STRATEGIES.register
class FedGlm(Strategy):
    """One generalised linear model with its canonical link, as if all rows lay in one place: the same estimates, the same errors.

    With the predictors `eta = X b` and, by the family, the means m and the variances W of y, each client sends means over its rows
    at the coefficients b of the round: the score `g = X'(y - m)`, the information `H = X'WX`, and the deviance D. Weighted by rows,
    their mean over clients is that of all rows. The server takes the step of Newton, which is iteratively reweighted least squares:

        b <- b + (H + strength P)^-1 (g - strength P b),   P: 1 for each coefficient, 0 for the constant

    It starts at 0; the first round of `poisson` only moves the constant to the log of the mean count, as steps from 0 go far too far.
    Where the deviance rises (strength b'Pb included), b goes half the way back to the best so far. It ends when the deviance
    changes by no more than `tolerance` (|D| + 0.1), as R's glm does, with the step that this round's messages still allow;
    `gaussian` ends after one round, with least squares. All clients take part in every round.

    Standard errors are the roots of the diagonal of `dispersion (n (H + strength P))^-1`, H being that of the last round. The
    dispersion is D / (n - coefficients) for `gaussian`, whose statistic is t, else 1, with z. With a strength they are too small to
    be those of the true coefficients, which the estimates no longer aim at. summary.json has the coefficients in the units of
    the user's columns. One that the columns before it determine is left at 0 and has none; first words of text columns come last in this,
    so they are the words that the others are compared with. Coefficients that grow without end (classes that are separated) are told.

    Messages are exact to 2^-37 of a client's largest number: columns of very different size (of arrays, which are not standardised), or
    that nearly determine each other, cost digits.
    Bytes: 8 a number, p up for g, p (p + 1) / 2 for H, 1 for D; p down, once more after the last round.

    Privacy: the sums of few rows give these away (of one row, g over its first number is the row). It is no guarantee; only means
    are used, so messages may be summed under secure aggregation.
    """

    kind: Literal["fed_glm"] = "fed_glm"
    sends: ClassVar[str] = "score, information and deviance of a linear model on its rows, each round"
    receives: ClassVar[str] = "the coefficients, each round"
    reveals: ClassVar[str] = "class counts, means and covariances of its columns; of a few rows the rows themselves"
    exact_sums: ClassVar[bool] = True
    newest_only: ClassVar[bool] = True  # messages at other coefficients cannot be added up

    rounds: Annotated[int | None, Field(ge=1, description="the most rounds; it mostly ends after 4 to 8. null: the scenario's")] = 25
    family: Annotated[
        Literal["auto"] | Family,
        Field(description="distribution of the labels. auto: gaussian for a regression, binomial for two classes, multinomial for more"),
    ] = "auto"
    strength: Annotated[float, Field(ge=0, description="of the ridge penalty, strength / 2 times squared coefficients, a row")] = 0.0
    tolerance: Annotated[float, Field(gt=0, lt=1, description="relative change of the deviance at which it ends")] = 1e-8

    @property
    def ends_early(self) -> bool:
        """At the tolerance."""
        return True

    # -- the model and the data --------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear model, zero at first. Raises SpecError for a family that does not suit the labels, and for too many coefficients."""
        family = self._family(problem)
        classes, regression = problem.outputs, problem.task == "regression"
        if regression and problem.outputs > 1:
            raise SpecError(("family",), self.family, f"rows have {problem.outputs} targets: name one `label`")
        if regression != (family in ("gaussian", "poisson")) or (family == "binomial" and classes != 2) or classes < 2 - regression:
            labels = "numbers; allowed: auto, gaussian or poisson" if regression else f"{classes} classes; allowed: auto or multinomial"
            raise SpecError(("family",), self.family, f"labels are {labels}{', or binomial' * (not regression and classes == 2)}")
        size = math.prod(self._shape(problem))
        if size > _MOST:
            message = f"{size:,} coefficients, of which clients send all products: {_MOST:,} at most; fewer inputs, or another strategy"
            raise SpecError(("kind",), self.kind, message)
        head = nn.Linear(math.prod(problem.shape), problem.outputs)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        parts = OrderedDict[str, nn.Module](flatten=nn.Flatten(), head=head)
        if family == "poisson":
            parts["count"] = _Counts(problem.label_mean, problem.label_scale)
        module = nn.Sequential(parts)
        learner = make_learner(module, problem.task, problem.layout.dtype, dims=len(problem.shape))
        return replace(problem, module=module, learner=learner, row=learner.layout.row(module.state_dict()), base=problem)

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        """Labels that are no counts, where they are to be, and what the rounds have no use for."""
        found = super().refused(problem, federation)
        if self._family(problem) == "poisson":
            found += [error for held in (federation, federation.later) if held is not None for error in self._no_counts(problem, held)]
        return found

    def _no_counts(self, problem: Problem, federation: Federation) -> list[SpecError]:
        off = federation.train.y[:, 0].astype(np.float64)
        y = off * problem.label_scale + problem.label_mean
        wrong = np.abs(y - np.round(y)) > _WHOLE[0] + _WHOLE[1] * np.abs(off) * problem.label_scale
        wrong |= np.round(y) < 0
        if not wrong.any():
            return []
        found = f"labels are to be counts, 0, 1, 2 ..., and {wrong.sum():,} of {len(y):,} are not, such as {y[wrong][0]:.6g}"
        return [SpecError(("family",), self.family, f"{found}; use gaussian, or a column of counts as `label`")]

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        return problem.layout.state_dict(_row(state.broadcast["beta"]))

    # -- rounds ------------------------------------------------------------------------------------------------------

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        """Coefficients of 0: `[d]` of a regression, `[d, classes - 1]` for classes."""
        return ServerState({"beta": torch.zeros(self._shape(problem), dtype=torch.float64)})

    def planned_steps(self, problem: Problem, state: ServerState) -> NDArray[np.int64]:
        """No training."""
        return np.zeros_like(problem.samples)

    def uploads(self, problem: Problem, state: ServerState) -> State:
        width = math.prod(self._shape(problem))
        return {name: torch.zeros(size, dtype=torch.float64) for name, size in _sizes(width).items()}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        beta, problem, family = broadcast["beta"], task.problem, self._family(task.problem)
        sent: dict[str, list[Tensor]] = {name: [] for name in _sizes(beta.numel())}
        for i in range(task.k):
            x, y = task.rows(i)
            constant = torch.ones(len(x), 1, dtype=torch.float64)
            if problem.task == "regression":
                y = y[:, 0].double()
            if family == "poisson":
                y = (y * problem.label_scale + problem.label_mean).round()
            said = message(family, torch.cat([constant, x.flatten(1).double()], 1), y, beta.reshape(len(beta), -1))
            for name, values in sent.items():
                values.append(getattr(said, name))
        return ClientResult({name: (torch.stack(values), self.weights(task)) for name, values in sent.items()})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        rows = _rows(aggregate)
        if not rows:
            return ServerUpdate(state)
        problem, beta, first = context.problem, state.broadcast["beta"], not state.private
        family, d = self._family(problem), len(beta)
        b = beta.reshape(d, -1).T.reshape(-1)
        information = unpacked(aggregate.mean["information"], len(b))
        before = self._start(problem, information, aggregate) if first else state.private
        penalty = (self.strength * (torch.arange(d) > 0)).double().repeat(len(b) // d)
        inverse = Inverse.of(information + torch.diag(penalty), before["kept"].repeat(len(b) // d))
        step = inverse.matrix @ (aggregate.mean["score"] - penalty * b)
        deviance = rows * float(aggregate.mean["deviance"])
        total = deviance + rows * float(penalty @ b.square())
        same = rows == float(before["rows"])  # deviances of other clients cannot be compared
        best, least = before["best"], float(before["least"]) if same else math.inf
        converged = abs(total - least) <= self.tolerance * (abs(total) + 0.1)
        if family == "gaussian":  # the deviance is a square, and the step goes to its bottom
            deviance = max(deviance - rows * float(2 * (aggregate.mean["score"] @ step) - step @ information @ step), 0.0)
            converged = True
        if total > least and not converged:
            new = (beta + best) / 2
        else:
            best, least, new = beta, total, beta + step.reshape(-1, d).T.reshape(beta.shape)
        if first and family == "poisson":
            least, new = math.inf, torch.zeros_like(beta)
            new[0] = float(before["constant"])
        kept = {**before, "best": best, "least": _one(least), "rows": _one(rows)}
        moving = same and (converged or (aggregate.share == 1 and context.round > _LONG)) and bool(step.abs().max() > _MOVING)
        fit = Fit(
            family,
            new.reshape(d, -1),
            inverse,
            before["kept"],
            rows,
            deviance,
            null_deviance=rows * float(before["null_deviance"]),
            iterations=context.round,
            converged=converged,
            moving=moving,
            share=aggregate.share,
            strength=self.strength,
        )
        return ServerUpdate(ServerState({"beta": new}, private=kept), learned=table(fit, problem), done=converged or moving)

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"global": _row(broadcast["beta"])[None]}

    # -- what the halves share ---------------------------------------------------------------------------------------

    def _family(self, problem: Problem) -> Family:
        if self.family != "auto":
            return self.family
        if problem.task == "regression":
            return "gaussian"
        return "binomial" if problem.outputs == 2 else "multinomial"

    def _shape(self, problem: Problem) -> tuple[int, ...]:
        """Of the coefficients, the constant's first."""
        width = math.prod(problem.shape) + 1
        return (width,) if problem.task == "regression" else (width, problem.outputs - 1)

    def _start(self, problem: Problem, information: Tensor, aggregate: Aggregate) -> dict[str, Tensor]:
        """What the messages at coefficients of 0 tell for all rounds: which inputs have a coefficient, and the model of the constant
        alone, with its deviance a row."""
        width = math.prod(problem.shape) + 1
        kept = torch.ones(width, dtype=torch.bool)
        if not self.strength:
            kept = independent(information[:width, :width], _order(problem, width))
        score, deviance = aggregate.mean["score"][::width], float(aggregate.mean["deviance"])
        family, constant = self._family(problem), 0.0
        if family == "gaussian":
            null = deviance - float(score[0]) ** 2
        elif family == "poisson":
            mean = max(float(score[0]) + 1, 0.5 / _rows(aggregate))  # all counts may be 0
            constant = math.log(mean)
            null = deviance + 2 * (mean - 1) - 2 * mean * constant
        else:
            shares = score + 1 / problem.outputs
            shares = torch.cat([1 - shares.sum(0, keepdim=True), shares]).clamp(min=0.0)
            null = -2 * float(torch.xlogy(shares, shares).sum())
        numbers = {"constant": constant, "null_deviance": null, "least": math.inf, "rows": 0.0}
        return {"kept": kept, "best": torch.zeros(1, dtype=torch.float64), **{name: _one(value) for name, value in numbers.items()}}


class _Counts(nn.Module):
    """Expected counts from their logarithms, as standardised targets."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.register_buffer("scale", torch.tensor([scale]))

    def forward(self, eta: Tensor) -> Tensor:
        """`[n, 1]` both."""
        counts: Tensor = (eta.clamp(max=LARGEST).exp() - self.mean) / self.scale
        return counts


def _rows(aggregate: Aggregate) -> int:
    """The rows of the clients that were heard."""
    return round(float(aggregate.weight["deviance"])) if "deviance" in aggregate.weight else 0


def _sizes(width: int) -> dict[str, int]:
    """The uploads by name, and how many numbers each has, with so many coefficients."""
    return {"score": width, "information": width * (width + 1) // 2, "deviance": 1}


def _row(beta: Tensor) -> Tensor:
    """Coefficients as a row `[P]` of the parameters of the linear model, which has a score for the first class too."""
    head = beta[:, None] if beta.ndim == 1 else torch.cat([torch.zeros_like(beta[:, :1]), beta], 1)
    return as_rows(head.roll(-1, 0)[None])[0]


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _order(problem: Problem, width: int) -> list[int]:
    """The constant, all inputs but the first word of each text column, then these."""
    first, place = [], 1
    inputs: Any = () if problem.encoding is None else problem.encoding.inputs
    for column in inputs if isinstance(inputs, tuple) else ():
        if isinstance(column, Words):
            first.append(place)
        place += len(column.words) if isinstance(column, Words) else 1
    return [one for one in range(width) if one not in first] + first
