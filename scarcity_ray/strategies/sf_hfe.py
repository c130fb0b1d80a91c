"""SF-HFE: clients send moments once, Experts solve the heads that their clients' rows together would give, and each

client shrinks its own head towards its expert's. No client's weights go up; its expert's head goes down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.history import History
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.ensemble.heads import as_rows, head_state
from scarcity_ray.ensemble.learning import Learned, learn
from scarcity_ray.ensemble.moments import targets, with_constant
from scarcity_ray.ensemble.personal import personal_head
from scarcity_ray.ensemble.random_coefficients import Form, unpack
from scarcity_ray.strategies.represented import SendsMoments, messages
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_FORGOTTEN = 1e-3  # what a message counts at least for it to be read again


@STRATEGIES.register
class SfHfe(SendsMoments):
    """Least squares on a fixed representation, from one message of moments a client (see ensemble.moments).

    What comes before: a representation that needs a bandwidth takes a round (a survey up, a seed and the bandwidth down),
    a trunk may be trained by rounds of FedAvg. Then moments go up and the MetaLearner learns from them (see
    ensemble.learning), by how well the others' moments predict a client that is left out, and never by test rows: who belongs
    to which expert and how many there are, the strength of each expert's ridge, and how far clients' heads may differ from it. The head of
    its expert goes down to each client, which makes its own, and the strategy ends: the same rows would give the same
    moments again. With `forgetting` clients send moments in every round, for data that change, and the ensemble follows.

    For classes the head's scores s estimate one-hot codes, and outputs are `s / scale` (see ensemble.calibration). The
    greatest score stays the greatest.

    The broadcast by name, 4 bytes a number, of which a client counts those of its own expert alone: bandwidth (after a survey, with
    the seed: 8 and 4 bytes), or trunk (its weights, where they are not the seed's); heads float32 `[experts, width, outputs]`,
    scale float64 `[experts]` (4 bytes, for classes), `scatter.k` of each expert k (for personal heads: see RandomCoefficients.pack).
    Each client gets the number of its expert (1 byte, where there are several). What a client has received is not sent again.
    """

    kind: Literal["sf_hfe"] = "sf_hfe"
    sends: ClassVar[str] = 'sums over its rows ("moments"), once; no weights'
    receives: ClassVar[str] = "its expert's head, once"
    experts: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=255)], Field(description="how many; auto: as many as clients' groups show")
    ] = "auto"
    max_experts: Annotated[int, Field(ge=1, le=255, description="the most that auto may choose")] = 8
    personal: Annotated[bool, Field(description="each client shrinks its own head towards its expert's; false: it uses that")] = True
    differences: Annotated[
        Literal["auto"] | Form,
        Field(description="covariance of clients' heads about their expert's: any, or a variance for slopes and intercept, or the last"),
    ] = "auto"
    router: Annotated[
        Literal["density", "gate"],
        Field(description="who answers an input of unknown origin: by where experts' inputs lie, or a linear gate"),
    ] = "density"
    forgetting: Annotated[
        float | None,
        Field(ge=0, le=1, description="what a message counts a round later, where clients send in every round; null: they send once"),
    ] = None

    @property
    def most_experts(self) -> int:
        """As many as are asked for, or may be chosen."""
        return self.max_experts if self.experts == "auto" else self.experts

    @property
    def ends_early(self) -> bool:
        """Where clients send their moments once."""
        return self.forgetting is None

    # -- what it learns ----------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation; its shape stays that of the clients' inputs.

        Raises SpecError for a single client: nobody could be left out.
        """
        if problem.population < 2:
            raise SpecError(("data", "clients"), problem.population, "sf_hfe chooses its strengths by leaving one client out: 2 at least")
        return super().problem(problem)

    def init_client(self, problem: Problem) -> State:
        """A client's own head as a row, where heads may differ."""
        return {"row": torch.zeros_like(problem.row)} if self.personal or self.experts != 1 else {}

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        """The representation and, where clients have none of their own, the head by the names of `module`; then what
        `Ensemble.of` reads."""
        if "heads" not in state.broadcast:
            return {}
        head = state.private["heads"][0] / state.private["scale"][0]
        ensemble = {f"ensemble.{name}": value.contiguous() for name, value in state.private.items()}
        return {**self.module(problem, state).state_dict(), **head_state(head), **ensemble}

    # -- what travels, and what is made of it ------------------------------------------------------------------------

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        """From surveys the representation; from moments the ensemble, and what each Expert is to fit."""
        history, round = aggregate.history, context.round
        if not self.forgetting or self.column not in self.payload(context.problem, round):
            return super().server_update(context, state, aggregate)
        ids, samples, rows = messages(history, round, self.column)
        if not len(rows):
            return ServerUpdate(replace(state, new_bytes=0))
        assert history is not None
        rows = self._remembered(history, ids, rows, round)
        return self.learned(context.problem, state, ids, samples, rows, times=len(history.rounds))

    def learned(
        self,
        problem: Problem,
        state: ServerState,
        ids: NDArray[np.int64],
        samples: NDArray[np.int64],
        rows: NDArray[np.float32],
        times: int = 1,
    ) -> ServerUpdate:
        """times: how many messages may be in one, see ensemble.learning."""
        learned = learn(
            self.packing(problem),
            rows,
            samples,
            experts=None if self.experts == "auto" else self.experts,
            most=self.max_experts,
            personal=self.differences if self.personal else "none",
            router=self.router,
            seed=problem.seed,
            times=times,
        )
        return ServerUpdate(
            self._state(problem, state, ids, learned),
            {k: (group.fitted, group.strength, group.scale) for k, group in enumerate(learned.groups)},
            clients=_of_clients(problem, ids, learned),
            learned=_summary(learned, samples),
            deliver=True,
            done=self.ends_early,
        )

    def with_experts(self, update: ServerUpdate, heads: Mapping[int, Tensor]) -> ServerState:
        """The same with the experts' heads."""
        if not heads:
            return update.state
        fitted = torch.stack([heads[k] for k in sorted(heads)])
        down, state = fitted.float(), update.state
        new_bytes = (state.new_bytes or 0) + down[0].numel() * down.element_size()
        return replace(state, broadcast={**state.broadcast, "heads": down}, private={**state.private, "heads": fitted}, new_bytes=new_bytes)

    def receive(self, task: Task, broadcast: State, client: State) -> State:
        """Each client's own head, from its own rows and its expert's head."""
        if "row" not in client or "heads" not in broadcast:
            return client
        problem, rows = task.problem, []
        to_features, width = self.mapping(problem, broadcast), self.packing(problem).width
        for i, k in enumerate(broadcast["expert"].tolist()):
            head = broadcast["heads"][k].double()
            if self.personal:
                x, y = task.rows(i)
                f = with_constant(to_features(x).double())
                scatter = unpack(broadcast[f"scatter.{k}"].numpy(), width)
                head = personal_head(f, targets(y, problem.task, problem.outputs), head, scatter)
            rows.append(head / broadcast["scale"][k])
        return {"row": as_rows(torch.stack(rows))}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        """Each client's own head, or the one expert's for all; none before there is one."""
        if "heads" not in broadcast:
            return {}
        return {"personal": client["row"]} if client else {"global": as_rows(broadcast["heads"].double() / broadcast["scale"][0])}

    # -- what the halves share ---------------------------------------------------------------------------------------

    def _remembered(self, history: History, ids: NDArray[np.int64], rows: NDArray[np.float32], round: int) -> NDArray[np.float32]:
        """Each client's messages so far as one: their mean, one of s rounds ago counting forgetting ** s.

        What has not changed is the same message again, and counts once.
        """
        assert self.forgetting is not None
        total, weights = rows.astype(np.float64), np.ones(len(ids))
        for before in reversed([one for one in history.rounds if one < round]):
            weight = self.forgetting ** (round - before)
            if weight < _FORGOTTEN:
                break
            if self.column not in history.query(rounds=before, clients=[]).column_names:
                continue
            others, _, sent = messages(history, before, self.column)
            _, here, there = np.intersect1d(ids, others, return_indices=True)
            total[here] += weight * sent[there]
            weights[here] += weight
        return (total / weights[:, None]).astype(np.float32)

    def _state(self, problem: Problem, state: ServerState, ids: NDArray[np.int64], learned: Learned) -> ServerState:
        """All but the heads. A client without a message belongs to the first expert, which is the largest."""
        groups, width = learned.groups, self.packing(problem).width
        expert = torch.zeros(problem.population, dtype=torch.int64)
        expert[torch.from_numpy(ids)] = torch.from_numpy(learned.members)
        scale = torch.tensor([group.scale for group in groups], dtype=torch.float32).double()
        packed = [np.zeros(2, dtype=np.float32) if group.scatter is None else group.scatter.pack() for group in groups]
        down = 4 * (problem.task == "classification") + (max(part.nbytes for part in packed) if self.personal else 0)
        private = {
            "client_id": torch.arange(problem.population),
            "expert_id": expert,
            "whole": learned.whole,
            "scale": scale,
            "noise": torch.tensor([group.noise for group in groups], dtype=torch.float64),
            "scatters": _together([unpack(scatter, width) for scatter in packed]),
            "covariances": torch.stack([group.covariance for group in groups]),
            **{name: value.reshape(value.shape or (1,)) for name, value in learned.router.tensors().items()},  # a file has no scalars
        }
        known = {name: value for name, value in state.broadcast.items() if not name.startswith("scatter.")}  # there may be fewer now
        scatters = {f"scatter.{k}": torch.from_numpy(scatter) for k, scatter in enumerate(packed)}
        return ServerState({**known, "scale": scale, **scatters}, {"expert": expert}, private, down + int(len(groups) > 1))


def _summary(learned: Learned, samples: NDArray[np.int64]) -> dict[str, Any]:
    experts = [
        {
            "clients": int((learned.members == k).sum()),
            "rows": int(samples[learned.members == k].sum()),
            "strength": group.strength,
            "noise": group.noise,
            "scale": group.scale,
            "differences": None if group.scatter is None else group.scatter.form,
        }
        for k, group in enumerate(learned.groups)
    ]
    evidence = {str(k): float(surprise) for k, surprise in learned.evidence.items()}
    return {"experts": experts, "evidence": evidence, "label_mix": learned.label_mix}


def _together(covariances: list[Tensor]) -> Tensor:
    """Diagonals `[experts, width]` where all are such, else `[experts, width, width]`."""
    if all(one.ndim == 1 for one in covariances):
        return torch.stack(covariances)
    return torch.stack([torch.diag(one) if one.ndim == 1 else one for one in covariances])


def _of_clients(problem: Problem, ids: NDArray[np.int64], learned: Learned) -> dict[str, NDArray[np.float64]]:
    """What tables say of each client of the population; NaN of whom there is no message."""
    columns = {
        "expert_id": learned.members,
        "confidence": learned.confidence,
        "contribution": learned.contribution,
        "contribution_whole": learned.contribution_whole,
    }
    whole = {}
    for name, values in columns.items():
        whole[name] = np.full(problem.population, np.nan)
        whole[name][ids] = values
    return whole
