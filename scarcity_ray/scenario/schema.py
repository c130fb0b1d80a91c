"""What a scenario says: one place for each field, with unit, range, default and a line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.spec import Spec
from scarcity_ray.data import Data
from scarcity_ray.models import AnyModel
from scarcity_ray.scenario.conflicts import conflicts
from scarcity_ray.scenario.diagnostics import SpecErrors
from scarcity_ray.strategies import AnyStrategy
from scarcity_ray.training.local import Local

NAME = r"^[A-Za-z0-9_-]{1,100}$"
Count = Annotated[int, Field(ge=1)]


class Evaluation(Spec):
    """When and on whom models are tested; the last round always is."""

    every: Annotated[int, Field(ge=1, description="rounds from one evaluation to the next")] = 1
    clients: Annotated[Literal["all"] | Count, Field(description="who is evaluated: all, or a fixed seeded sample of so many clients")] = (
        "all"
    )


class Execution(Spec):
    """Where the work is done. Results do not depend on it."""

    ray: Annotated[bool, Field(description="Ray actors in processes of their own; false: everything in this process")] = True
    address: Annotated[
        str | None,
        Field(
            min_length=1,
            description="a running Ray cluster, as auto or ray://host:10001; local: this machine; "
            "null: the cluster that the program finds itself on, or else this machine",
        ),
    ] = None
    cpus: Annotated[
        Literal["auto"] | Count, Field(description="cores the run takes; auto: all there are, or on a cluster all that it can use")
    ] = "auto"
    wait_for_cluster: Annotated[
        float, Field(ge=0, description="seconds to wait at most for a cluster's autoscaler; then the run takes the cores that are there")
    ] = 300.0
    actors: Annotated[
        Literal["auto"] | Count, Field(description="Client actors, in place of clients_per_actor; auto: one for each core")
    ] = "auto"
    clients_per_actor: Annotated[
        Literal["auto"] | Count, Field(description="clients that one Client actor hosts, in place of actors; auto: sized to the cores")
    ] = "auto"
    checkpoint_every: Annotated[
        Literal["auto"] | Count,
        Field(description="rounds from one checkpoint to the next; auto: every round, or fewer where it takes a twentieth of the time"),
    ] = "auto"
    give_up_after: Annotated[
        float, Field(gt=0, description="seconds without an answer after which an actor counts as hung: it is ended, and its work repeated")
    ] = 3600.0
    device: Annotated[Literal["cpu"], Field(description="where clients train")] = "cpu"


class Output(Spec):
    """Where results go."""

    directory: Annotated[str | None, Field(min_length=1, description="the run's folder; runs/NAME if left out")] = None


class Scenario(Spec):
    """A federation and the strategies to compare on it."""

    name: Annotated[str, Field(pattern=NAME, description="names the run and its folder")]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="all randomness comes from it")] = 0
    repeats: Annotated[int, Field(ge=1, description="runs with seed, seed + 1, ...")] = 1
    rounds: Annotated[int, Field(ge=1, description="communication rounds")]
    data: Annotated[Data, Field(description="the rows and how they are dealt to clients")]
    model: Annotated[AnyModel | None, Field(description="what is trained; may be left out where every strategy brings its own")] = None
    local: Annotated[Local, Field(description="a client's training in one round")] = Local()
    strategies: Annotated[
        list[AnyStrategy], Field(min_length=1, description="what to compare, side by side on the same data and the same samples of clients")
    ]
    evaluation: Annotated[Evaluation, Field(description="when and on whom models are tested")] = Evaluation()
    execution: Annotated[Execution, Field(description="where the work is done")] = Execution()
    output: Annotated[Output, Field(description="where results go")] = Output()

    @model_validator(mode="after")
    def _without_conflicts(self) -> Self:
        if found := conflicts(self.model_dump()):
            raise SpecErrors(found)
        # Written out, so that a resolved scenario says what each strategy trains by.
        whole = [one if one.local is None else one.model_copy(update={"local": one.local.over(self.local)}) for one in self.strategies]
        object.__setattr__(self, "strategies", whole)  # of a frozen class, which is not in use yet
        return self

    @property
    def directory(self) -> Path:
        """Where results go unless the command line says otherwise."""
        return Path(self.output.directory or f"runs/{self.name}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors and for error messages."""
    schema = Scenario.model_json_schema()
    for definition in schema["$defs"].values():
        if "kind" in definition.get("properties", {}):  # what tells the members of a union apart has to be written
            definition["required"] = list(dict.fromkeys(["kind", *definition.get("required", [])]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
