"""The `tune` section of a scenario: which settings are searched, how, and how much each strategy may spend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator
from typing_extensions import Self

from scarcity_ray.core.spec import Spec

Value = JsonValue
"""Whatever a field of a scenario may be: a number, a word, a list of units, a whole model."""


class Range(Spec):
    """Numbers between two bounds."""

    low: Annotated[float, Field(description="the smallest value")]
    high: Annotated[float, Field(description="the largest value")]
    log: Annotated[bool, Field(description="even in the logarithm: as much between 1 and 10 as between 10 and 100")] = False
    integer: Annotated[bool, Field(description="whole numbers alone")] = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        if self.integer and (self.low % 1 or self.high % 1):
            raise ValueError("low and high must be whole numbers with integer")
        return self


Choice = Range | Annotated[tuple[Value, ...], Field(strict=False, min_length=1)]


class Grid(Spec):
    """Every combination of the values; of a range `points`, evenly spaced, with its bounds."""

    kind: Literal["grid"] = "grid"
    points: Annotated[int, Field(ge=2, le=1000, description="values of each range")] = 5


class Random(Spec):
    """Independent uniform draws. Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012."""

    kind: Literal["random"] = "random"
    trials: Annotated[int, Field(ge=1, description="of each strategy")] = 32


class TPE(Spec):
    """Tree-structured Parzen estimators. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; by Optuna (the extra
    `tune`). A batch is proposed at a time, so that its trials do not depend on their order."""

    kind: Literal["tpe"] = "tpe"
    trials: Annotated[int, Field(ge=1, description="of each strategy")] = 32
    batch: Annotated[int, Field(ge=1, description="trials that are proposed together")] = 4


class Halving(Spec):
    """Synchronous successive halving. Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
    AISTATS 2016: all trials play a few rounds, the best 1 / eta of them eta times as many, and so on."""

    eta: Annotated[int, Field(ge=2, description="one in so many is promoted, to so many times the rounds")] = 3
    first_rounds: Annotated[int, Field(ge=1, description="rounds of every trial")] = 5


class Budget(Spec):
    """What each strategy may spend on its search. No trial begins once it is spent."""

    updates: Annotated[int | None, Field(ge=1, description="trained client updates")] = None
    seconds: Annotated[float | None, Field(gt=0, description="wall-clock seconds; the trials then depend on the machine")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.updates is None) == (self.seconds is None):
            raise ValueError("give updates or seconds")
        return self


class Tune(Spec):
    """A search for the settings of each strategy, by validation rows, with the same budget for each."""

    method: Annotated[Grid | Random | TPE, Field(discriminator="kind", description="how settings are proposed")] = Random()
    parameters: Annotated[
        dict[str, Choice],
        Field(min_length=1, description="what is searched, by its path as in --set: local.lr, or strategies.NAME.field for one strategy"),
    ]
    per_strategy: Annotated[
        bool, Field(description="each strategy has a search of its own; false: one setting for all of them together")
    ] = True
    metric: Annotated[
        Literal["accuracy", "auc", "log_loss", "brier", "rmse", "mae", "r2"] | None,
        Field(description="what is searched for, a mean over clients; null: the metric of the evaluation"),
    ] = None
    halving: Annotated[Halving | None, Field(description="bad trials end early; null: every trial plays all rounds")] = None
    budget: Annotated[Budget | None, Field(description="of each strategy; null: as many trials as the method has")] = None
    bytes: Annotated[
        int | None,
        Field(ge=1, description="what a client may send and receive in all, in the mean: rounds are as many as fit; null: any number"),
    ] = None
    repeats: Annotated[int, Field(ge=1, description="fresh seeds of the final test")] = 3

    @model_validator(mode="after")
    def _bytes_are_of_one(self) -> Self:
        if self.bytes is not None and not self.per_strategy:
            raise ValueError("bytes needs per_strategy: each strategy has as many rounds as its own messages allow")
        return self


class Sweep(Spec):
    """Every combination of some values, each played as a run of its own: where does which strategy win?"""

    parameters: Annotated[
        dict[str, Choice],
        Field(min_length=1, description="values by path, as in --set: data.partition.alpha, or strategies.NAME.field for one strategy"),
    ]
    points: Annotated[int, Field(ge=2, le=1000, description="values of each range")] = 5
