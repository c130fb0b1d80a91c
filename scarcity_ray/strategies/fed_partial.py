"""Federations that share a part of the model, while the rest stays with the client: FedPer, FedRep, FedBABU.

Arivazhagan, Aggarwal, Singh and Choudhary, "Federated Learning with Personalization Layers", arXiv:1912.00818, 2019 (FedPer);
Collins, Hassani, Mokhtari and Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021,
Algorithm 1 (FedRep); Oh, Kim and Yun, "FedBABU: Toward Enhanced Representation for Federated Image Classification", ICLR 2022.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy
from scarcity_ray.training.local import Local
from scarcity_ray.training.parameters import numbers_of, part_of, put_numbers, rest_of
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task


class Partial(SampledStrategy):
    """The clients' models agree in their shared numbers, whose mean is taken each round; the private ones never leave a client.

        joint        both parts are trained together (FedPer)
        alternate    first the private part, as long as local training says, with the shared one fixed; then the shared
                     part, `shared_epochs` passes over the rows, with the private one fixed (FedRep)
        head_last    the shared part alone, with the private one as it was drawn at first; a client trains its private part
                     only before it is tested, and does not keep it (FedBABU)

    A part that is fixed keeps its bits. A client that has not trained in a round yet trains its private part before it is tested,
    and does not keep it. Only the shared numbers travel. If nothing is private this is FedAvg; if everything is, by name, each client is
    alone. The models that are tested are saved, one for each client.
    """

    sends: ClassVar[str] = "the shared part of a model's weights, each round"
    receives: ClassVar[str] = "the shared part of the model, each round"
    reveals: ClassVar[str] = "what the shared part of a model keeps of its rows: as of weights, without those that stay at the client"
    private: Annotated[
        Literal["head", "body", "norms"] | list[str],
        Field(description="what stays with a client: the last layer, all but that, the norm layers, or parameters and layers by name"),
    ] = "head"
    order: Annotated[Literal["joint", "alternate", "head_last"], Field(description="which part is trained when")] = "joint"
    shared_epochs: Annotated[
        int | None, Field(ge=1, description="`order: alternate`: passes over a client's rows that train the shared part; 1 if left out")
    ] = None
    adapt_steps: Annotated[
        int | None,
        Field(ge=0, description="local steps of the private part before the test, where it is untrained; as in a round if left out"),
    ] = None

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        found = super().refused(problem, federation)
        if self.shared_epochs is not None and self.order != "alternate":
            message = f"with `order: {self.order}` the parts are not trained one after the other: leave it out, or use `order: alternate`"
            found.append(SpecError(("shared_epochs",), self.shared_epochs, message))
        try:
            shares = bool(rest_of(problem, self.private).any())
        except SpecError as error:
            return [*found, error]
        if not shares and (isinstance(self.private, str) or self.order != "joint"):
            message = "that is the whole model, so nothing is shared: use a model of several layers, or name what stays with a client"
            found.append(SpecError(("private",), self.private, message))
        return found

    @property
    def saves_adapted(self) -> bool:
        return True

    # -- the server half ---------------------------------------------------------------------------------------------

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        shared = problem.row[rest_of(problem, self.private)]
        return ServerState({"shared": shared} if len(shared) else {})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        return ServerUpdate(ServerState(aggregate.mean))

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        """The shared part, beside the private one as it was drawn at first; clients' own models replace it where they are kept."""
        return problem.layout.state_dict(self._rows(problem, state.broadcast, {})[0])

    # -- the client half ---------------------------------------------------------------------------------------------

    def init_client(self, problem: Problem) -> State:
        own = problem.row[part_of(problem, self.private)]
        return {"private": own, "took_part": own.new_zeros(1)} if len(own) and self.order != "head_last" else {}

    def planned_steps(self, problem: Problem, state: ServerState) -> NDArray[np.int64]:
        local, samples = problem.local, problem.samples
        shared = local.epoch_steps(samples) * (self.shared_epochs or 1) if self.order == "alternate" else 0
        return local.steps_for(samples) + shared

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        private, shared = part_of(task.problem, self.private), rest_of(task.problem, self.private)
        start = self._rows(task.problem, broadcast, client)
        if self.order == "alternate":
            y = self._one_after_the_other(task, start, private, shared)
        else:
            y = task.local_sgd(start, free=None if self.order == "joint" else shared)
        sums = {"shared": (numbers_of(y, shared), self.weights(task))} if "shared" in broadcast else {}
        kept = {"private": numbers_of(y, private), "took_part": torch.where(task.steps > 0, 1, client["took_part"])} if client else {}
        return ClientResult(sums, kept)

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        return local.steps_for(samples, self.adapt_steps)

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        rows = self._rows(task.problem, broadcast, client).expand(task.k, -1).clone()
        private = part_of(task.problem, self.private)
        untrained = client["took_part"][:, 0] == 0 if client else private.any().expand(task.k)
        if (chosen := untrained.numpy()).any():
            some = Task(task.problem, task.shards, task.ids[chosen], task.round, task.plan.steps[chosen])
            rows[untrained] = some.local_sgd(rows[untrained], free=private)
        return {"adapted": rows}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": client["adapted"]}

    def _one_after_the_other(self, task: Task, start: Tensor, private: Tensor, shared: Tensor) -> Tensor:
        """The private part's steps, then those of the shared part; a client whose schedule plans fewer steps leaves out the last ones."""
        first = np.minimum(task.plan.steps, task.problem.local.steps_for(task.plan.counts))
        y = start.expand(task.k, -1)
        losses, norms = [], []
        for steps, free in ((first, private), (task.plan.steps - first, shared)):
            part, order = task.again(steps)
            back = torch.argsort(order)
            y = part.local_sgd(y[order], free=free)[back]
            losses.append([values[back.numpy()] for values in (part.train_loss, part.loss_norm)])
            norms.append([values[back.numpy()] for values in part.grad_norms])
        last = task.plan.steps > first
        task.train_loss, task.loss_norm = (np.where(last, two, one) for one, two in zip(*losses, strict=True))
        mean, std = (np.where(last, two, one) for one, two in zip(*norms, strict=True))
        task.grad_norms, task.models = (mean, std), (start, y)
        return y

    def _rows(self, problem: Problem, broadcast: State, client: State) -> Tensor:
        """The clients' models `[k, P]`; `[1, P]` where they keep nothing of their own."""
        rows = problem.row.expand(len(client["private"]) if client else 1, -1).clone()
        if "shared" in broadcast:
            put_numbers(rows, rest_of(problem, self.private), broadcast["shared"][None])
        if client:
            put_numbers(rows, part_of(problem, self.private), client["private"])
        return rows


@STRATEGIES.register
class FedPartial(Partial):
    """A part of the model is shared, the rest stays with each client; which and when is set here."""

    kind: Literal["fed_partial"] = "fed_partial"


@STRATEGIES.register
class FedPer(Partial):
    """`fed_partial` with a private head and both parts trained together."""

    kind: Literal["fed_per"] = "fed_per"
    order: Annotated[Literal["joint"], Field(description="both parts are trained together")] = "joint"


@STRATEGIES.register
class FedRep(Partial):
    """`fed_partial` with a private head, which is trained first, and then the body."""

    kind: Literal["fed_rep"] = "fed_rep"
    order: Annotated[Literal["alternate"], Field(description="the private part is trained first, then the shared one")] = "alternate"
