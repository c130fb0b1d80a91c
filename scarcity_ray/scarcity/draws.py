"""Draws: a number for each client, from a law, by a hash of (seed, purpose, client)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import ndtri
from typing_extensions import Self

from scarcity_ray.core.randomness import unit
from scarcity_ray.core.spec import Spec, SpecError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


class LogNormalLaw(Spec):
    """The parameters of a log-normal law, cut to a range."""

    median: Annotated[float, Field(gt=0, description="half of the clients have less")]
    sigma: Annotated[float, Field(ge=0, le=10, description="standard deviation of the logarithm")]
    minimum: Annotated[float, Field(ge=0, description="what is below becomes this")] = 0.0
    maximum: Annotated[float | None, Field(gt=0, description="what is above becomes this; null: no bound")] = None

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum is {self.minimum:g}, above maximum, {self.maximum:g}")
        return self


class UniformLaw(Spec):
    """The ends of a uniform law."""

    low: Annotated[float, Field(ge=0, description="lowest value")]
    high: Annotated[float, Field(ge=0, description="highest value")]

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, {self.high:g}")
        return self


class LogNormalDraw(Spec):
    """Few clients with much, many with little."""

    lognormal: Annotated[LogNormalLaw, Field(description="median * exp(sigma * normal), cut to minimum .. maximum")]


class UniformDraw(Spec):
    """Every value of a range is as likely."""

    uniform: Annotated[UniformLaw, Field(description="a value from low to high")]


class ChoicesDraw(Spec):
    """One of some values, each as likely; a value that stands twice is twice as likely."""

    choices: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1, description="the values")]


class ColumnDraw(Spec):
    """The client's own value."""

    column: Annotated[str, Field(min_length=1, description="a column of numbers in the user's table, the same in all rows of a client")]
    times: Annotated[float, Field(gt=0, description="what each value is multiplied by")] = 1.0


Draw = Annotated[float, Field(ge=0)] | LogNormalDraw | UniformDraw | ChoicesDraw | ColumnDraw


def normal(seed: int, purpose: str, *indices: Ids | int) -> Floats:
    """The same, standard normal."""
    values: Floats = ndtri(unit(seed, purpose, *indices))
    return values


def drawn(draw: Draw, seed: int, purpose: str, clients: int, columns: Mapping[str, Floats]) -> Floats:
    """The value of each client, float64 `[clients]`. It depends on the seed, the purpose and the client's id alone.

    columns: of the user's table, `[clients]` each. Raises SpecError for a column that is not among them.
    """
    ids = np.arange(clients)
    if isinstance(draw, ColumnDraw):
        if draw.column not in columns:
            raise SpecError(("column",), draw.column, f"no such column of the table; there are {', '.join(columns) or 'none'}")
        own: Floats = draw.times * columns[draw.column]
        return own
    if isinstance(draw, LogNormalDraw):
        law = draw.lognormal
        cut: Floats = np.clip(law.median * np.exp(law.sigma * normal(seed, purpose, ids)), law.minimum, law.maximum)
        return cut
    if isinstance(draw, UniformDraw):
        return draw.uniform.low + (draw.uniform.high - draw.uniform.low) * unit(seed, purpose, ids)
    if isinstance(draw, ChoicesDraw):
        choices: Floats = np.array(draw.choices)
        chosen: Floats = choices[(unit(seed, purpose, ids) * len(choices)).astype(np.int64)]
        return chosen
    return np.full(clients, float(draw))


def scaled(draw: Draw, factor: float) -> Draw:
    """The draw by which each client has `factor` times what it has by this one, bounds included."""
    if isinstance(draw, ColumnDraw):
        return draw.model_copy(update={"times": factor * draw.times})
    if isinstance(draw, LogNormalDraw):
        law = draw.lognormal
        ends = {"minimum": factor * law.minimum, "maximum": None if law.maximum is None else factor * law.maximum}
        return LogNormalDraw(lognormal=law.model_copy(update={"median": factor * law.median, **ends}))
    if isinstance(draw, UniformDraw):
        return UniformDraw(uniform=UniformLaw(low=factor * draw.uniform.low, high=factor * draw.uniform.high))
    if isinstance(draw, ChoicesDraw):
        return ChoicesDraw(choices=[factor * value for value in draw.choices])
    return factor * draw
