"""The fields of a scenario, each with its unit, range, default and a line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.spec import Spec
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.data import Data
from scarcity_ray.models import AnyModel
from scarcity_ray.scarcity.spec import Scarcity
from scarcity_ray.scenario.conflicts import conflicts
from scarcity_ray.scenario.diagnostics import SpecErrors
from scarcity_ray.scenario.tuning import Sweep, Tune
from scarcity_ray.strategies import AnyStrategy
from scarcity_ray.training.local import Local

NAME_LENGTH = 100
NAME = rf"^[A-Za-z0-9_-]{{1,{NAME_LENGTH}}}$"
Count = Annotated[int, Field(ge=1)]


Threshold = Annotated[float, Field(ge=0.001, le=0.999)]


class Evaluation(Spec):
    """When models are tested, on which clients, and by what. The last round is always evaluated. No result hash depends on the metrics."""

    every: Annotated[int, Field(ge=1, description="rounds from one evaluation to the next")] = 1
    clients: Annotated[
        Literal["all"] | Count, Field(description="which clients are tested: all, or a fixed random sample of this size")
    ] = "all"
    metric: Annotated[
        Literal["accuracy", "auc", "log_loss", "brier", "rmse", "mae", "r2"] | None,
        Field(
            description="the metric that decides between strategies: accuracy, auc, log_loss or brier for classes, rmse, mae or r2 for "
            "numbers; null: accuracy, or rmse"
        ),
    ] = None
    target: Annotated[
        dict[Literal["accuracy", "auc", "log_loss", "brier", "rmse", "mae", "r2"], float] | None,
        Field(
            min_length=1,
            max_length=1,
            description="a mean over clients to reach, as {accuracy: 0.9} or {rmse: 2.4}: the summary says what each strategy took to stay "
            "there for three evaluations; null: none",
        ),
    ] = None
    margin: Annotated[float, Field(ge=0, description="a gain below this counts as none; in the unit of the metric")] = 0.0
    thresholds: Annotated[
        tuple[Threshold, ...],
        Field(
            strict=False,
            max_length=20,
            description="two classes: probabilities of the positive class at which sensitivity, specificity and net benefit are measured",
        ),
    ] = (0.1, 0.2)
    sensitivity_at: Annotated[
        float, Field(ge=0.001, le=1, description="two classes: the least sensitivity at which the specificity is measured")
    ] = 0.9
    positive: Annotated[
        bool | int | str | None, Field(description="two classes: the label of the positive class; null: the second in sorted order")
    ] = None
    predictions: Annotated[
        bool, Field(description="write predictions.parquet: what each strategy's last models answer to each test row, and what is true")
    ] = False
    scarcity_report: Annotated[
        bool,
        Field(
            description="play the scenario also with nothing scarce, with each scarcity alone, with all but each, and with 25 % more of "
            "each budget, and say what each scarcity costs each strategy"
        ),
    ] = False


OBSERVED = {"metric", "target", "margin", "thresholds", "sensitivity_at", "positive", "predictions", "scarcity_report"}
"""The fields of `evaluation` that no result depends on: what is measured, and how it is judged."""


class Execution(Spec):
    """Where and how the run computes. Results do not depend on it."""

    ray: Annotated[bool, Field(description="true: Ray actors, each in its own process; false: everything in this process")] = True
    address: Annotated[
        str | None,
        Field(
            min_length=1,
            description="a running Ray cluster, as auto or ray://host:10001; local: this machine; "
            "null: the cluster that this machine belongs to, or else this machine alone",
        ),
    ] = None
    cpus: Annotated[
        Literal["auto"] | Count,
        Field(description="cores that the run uses; auto: all of this machine, or on a cluster all that it can use"),
    ] = "auto"
    wait_for_cluster: Annotated[
        float, Field(ge=0, description="the longest wait for a cluster's autoscaler, in seconds; then the run uses the cores it has")
    ] = 300.0
    actors: Annotated[
        Literal["auto"] | Count, Field(description="number of Client actors, instead of clients_per_actor; auto: one per core")
    ] = "auto"
    clients_per_actor: Annotated[
        Literal["auto"] | Count, Field(description="number of clients in one Client actor, instead of actors; auto: by the number of cores")
    ] = "auto"
    checkpoint_every: Annotated[
        Literal["auto"] | Count,
        Field(description="rounds from one checkpoint to the next; auto: 1, or more if they would take over a twentieth of the time"),
    ] = "auto"
    give_up_after: Annotated[
        float,
        Field(gt=0, description="seconds without an answer after which an actor counts as hung: the run ends it and repeats its work"),
    ] = 3600.0
    device: Annotated[Literal["cpu"], Field(description="the device that clients train on")] = "cpu"


class Output(Spec):
    """Where results go."""

    directory: Annotated[str | None, Field(min_length=1, description="the run's folder; runs/NAME if left out")] = None


class Scenario(Spec):
    """A federation and the strategies to compare on it."""

    name: Annotated[str, Field(pattern=NAME, description="name of the run and of its folder")]
    question: Annotated[
        str | None, Field(min_length=1, max_length=200, description="what the run is to answer: the title of its table, plots and page")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63, description="seed of all random numbers")] = 0
    repeats: Annotated[int, Field(ge=1, description="number of runs, with seed, seed + 1, ...")] = 1
    rounds: Annotated[int, Field(ge=1, description="communication rounds")]
    data: Annotated[Data, Field(description="the rows and how they are split among clients")]
    model: Annotated[AnyModel | None, Field(description="the model to train; may be left out if every strategy has its own")] = None
    local: Annotated[Local, Field(description="a client's training in one round")] = Local()
    strategies: Annotated[
        list[AnyStrategy], Field(min_length=1, description="the strategies to compare, on the same data and the same samples of clients")
    ]
    scarcity: Annotated[
        Scarcity | None,
        Field(description="what clients lack: compute, links, presence, energy, budgets; null: nothing"),
    ] = None
    evaluation: Annotated[Evaluation, Field(description="when models are tested, and on which clients")] = Evaluation()
    tune: Annotated[Tune | None, Field(description="what `scarcity-ray tune` searches for; a plain run plays the settings as they are")] = (
        None
    )
    sweep: Annotated[Sweep | None, Field(description="what `scarcity-ray sweep` crosses; a plain run plays the scenario as it is")] = None
    execution: Annotated[Execution, Field(description="where and how the run computes")] = Execution()
    output: Annotated[Output, Field(description="where results go")] = Output()

    @model_validator(mode="after")
    def _without_conflicts(self) -> Self:
        if found := conflicts(self.model_dump()):
            raise SpecErrors(found)
        # Each strategy gets its full local settings, so that a resolved scenario shows them.
        whole = [one if one.local is None else one.model_copy(update={"local": one.local.over(self.local)}) for one in self.strategies]
        object.__setattr__(self, "strategies", whole)  # the class is frozen, but this object is not in use yet
        return self

    @property
    def directory(self) -> Path:
        """Where results go, if the command line names no directory."""
        return Path(self.output.directory or f"runs/{self.name}")

    def strategy(self, title: str) -> Strategy:
        """The strategy of a title."""
        return next(one for one in self.strategies if one.title == title)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors and for error messages."""
    schema = Scenario.model_json_schema()
    for definition in schema["$defs"].values():
        if "kind" in definition.get("properties", {}):  # `kind` selects the member of a union, so it is required
            definition["required"] = list(dict.fromkeys(["kind", *definition.get("required", [])]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
