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

from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, Guidance, Lesson, State
from scarcity_ray.ensemble.heads import as_rows, head_state
from scarcity_ray.ensemble.learning import Learned, learn
from scarcity_ray.ensemble.moments import Moments, Packing, targets, with_constant
from scarcity_ray.ensemble.personal import personal_head
from scarcity_ray.ensemble.random_coefficients import Form, unpack
from scarcity_ray.strategies.represented import Represented, messages
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_FORGOTTEN = 1e-3  # what a message counts at least for it to be read again


@STRATEGIES.register
class SfHfe(Represented):
    """Least squares on a fixed representation, from one message of moments a client (see ensemble.moments).

    What comes before: a representation that needs a bandwidth takes a round (a survey up, a seed and the bandwidth down),
    a trunk may be trained by rounds of FedAvg. Then moments go up and the MetaLearner learns from them (see
    ensemble.learning), by how well clients foretell a client left out and never by test rows: who belongs to which expert
    and how many there are, the strength of each expert's ridge, and how far clients' heads may differ from it. The head of
    its expert goes down to each client, which makes its own, and the strategy ends: the same rows would only say the same
    again. With `forgetting` clients send anew each round, for data that change, and the ensemble follows.

    For classes the head's scores s estimate one-hot codes, and outputs are `s / scale` (see ensemble.calibration). The
    greatest score stays the greatest.

    Guidance by name, 4 bytes a number and each client that of its own expert alone: bandwidth (after a survey, with the
    seed: 8 and 4 bytes), or trunk (its weights, where they are not the seed's); heads float32 `[experts, width, outputs]`,
    scale (for classes), scatters (for personal heads: see RandomCoefficients.pack), and the expert's number (1 byte, where
    there are several). What a client was told before is not sent again.
    """

    kind: Literal["sf_hfe"] = "sf_hfe"
    column: ClassVar[str] = "moments"
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
        Field(ge=0, le=1, description="what a message counts a round later, where clients send anew each round; null: they send once"),
    ] = None

    @property
    def most_experts(self) -> int:
        """As many as are asked for, or may be chosen."""
        return self.max_experts if self.experts == "auto" else self.experts

    # -- what it learns ----------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation; its shape stays that of the clients' inputs.

        Raises SpecError for a single client: nobody could be left out.
        """
        if problem.population < 2:
            raise SpecError(("data", "clients"), problem.population, "sf_hfe chooses its strengths by leaving one client out: 2 at least")
        return super().problem(problem)

    def memory(self, problem: Problem) -> State:
        """A client's own head as a row, where heads may differ."""
        return {"row": torch.zeros_like(problem.row)} if self.personal or self.experts != 1 else {}

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        """The representation and, where clients have none of their own, the head by the names of `module`; then what
        `Ensemble.of` reads."""
        if "heads" not in server.shared:
            return {}
        head = torch.from_numpy(server.kept["heads"][0] / server.kept["scale"][0])
        kept = {f"ensemble.{name}": torch.from_numpy(np.ascontiguousarray(value)) for name, value in server.kept.items()}
        return {**self.module(problem, server).state_dict(), **head_state(head), **kept}

    # -- what travels, and what is made of it ------------------------------------------------------------------------

    def numbers(self, problem: Problem) -> int:
        return self.packing(problem).size

    def message(self, problem: Problem, f: Tensor, y: Tensor) -> Tensor:
        return self.packing(problem).pack(Moments.of(f, y, problem.task, problem.outputs))

    def learn(self, problem: Problem, history: Any, round: int) -> Lesson:
        """From surveys the representation; from moments the ensemble, and what each Expert is to fit."""
        if not self.forgetting or self.column not in self.payload(problem, round):
            return super().learn(problem, history, round)
        ids, samples, rows = messages(history, round, self.column)
        if not len(rows):
            return Lesson({}, Guidance())
        return self.lesson(problem, ids, samples, self._remembered(history, ids, rows, round), times=len(history.rounds))

    def lesson(
        self, problem: Problem, ids: NDArray[np.int64], samples: NDArray[np.int64], rows: NDArray[np.float32], times: int = 1
    ) -> Lesson:
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
        return Lesson(
            {},
            self._guidance(problem, ids, learned),
            {k: (group.fitted, group.strength, group.scale) for k, group in enumerate(learned.groups)},
            clients=_of_clients(problem, ids, learned),
            learned=_summary(learned, samples),
            deliver=True,
            done=self.forgetting is None,
        )

    def instruct(self, lesson: Lesson, heads: Mapping[int, Tensor], before: Guidance) -> Guidance:
        """What is known so far, with the experts' heads once they have fitted them."""
        guidance = super().instruct(lesson, heads, before)
        if not heads:
            return guidance
        fitted = torch.stack([heads[k] for k in sorted(heads)]).numpy()
        down = fitted.astype(np.float32)
        return replace(
            guidance,
            shared={**guidance.shared, "heads": down},
            shared_bytes=guidance.shared_bytes + down[0].nbytes,
            kept={**guidance.kept, "heads": fitted},
        )

    def receive(self, task: Task, guidance: Guidance, mine: State) -> State:
        """Each client's own head, from its own rows and its expert's head."""
        if "row" not in mine or "heads" not in guidance.shared:
            return mine
        told, problem, rows = guidance.shared, task.problem, []
        to_features, width = self.mapping(problem, guidance), self.packing(problem).width
        for i, k in enumerate(guidance.each["expert"][task.ids].tolist()):
            head = torch.from_numpy(told["heads"][k]).double()
            if self.personal:
                x, y = task.rows(i)
                f = with_constant(to_features(x).double())
                head = personal_head(f, targets(y, problem.task, problem.outputs), head, unpack(told["scatters"][k], width))
            rows.append(head / told["scale"][k])
        return {"row": as_rows(torch.stack(rows))}

    def answer(self, guidance: Guidance, mine: State) -> Tensor | None:
        """Each client's own head, or the one expert's for all; None before there is one."""
        told = guidance.shared
        if "heads" not in told:
            return None
        return mine["row"] if mine else as_rows(torch.from_numpy(told["heads"]).double() / told["scale"][0])

    # -- what the halves share ---------------------------------------------------------------------------------------

    def packing(self, problem: Problem) -> Packing:
        """How a client's moments travel."""
        return Packing(self.width(problem) + 1, problem.outputs, problem.task)

    def _remembered(self, history: Any, ids: NDArray[np.int64], rows: NDArray[np.float32], round: int) -> NDArray[np.float32]:
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

    def _guidance(self, problem: Problem, ids: NDArray[np.int64], learned: Learned) -> Guidance:
        """All but the heads. A client of whom there is no message is told the first expert, which is the largest."""
        groups, width = learned.groups, self.packing(problem).width
        expert = np.zeros(problem.population, dtype=np.int64)
        expert[ids] = learned.members
        scale = np.array([group.scale for group in groups], dtype=np.float32).astype(np.float64)
        scatters = [np.zeros(2, dtype=np.float32) if group.scatter is None else group.scatter.pack() for group in groups]
        told = 4 * (problem.task == "classification") + (max(part.nbytes for part in scatters) if self.personal else 0)
        kept = {
            "client_id": np.arange(problem.population),
            "expert_id": expert,
            "whole": learned.whole.numpy(),
            "scale": scale,
            "noise": np.array([group.noise for group in groups]),
            "scatters": _together([unpack(scatter, width) for scatter in scatters]).numpy(),
            "covariances": torch.stack([group.covariance for group in groups]).numpy(),
            **{name: value.numpy() for name, value in learned.router.tensors().items()},
        }
        shared = {"scale": scale, "scatters": scatters}
        return Guidance(shared, {"expert": expert}, shared_bytes=told, each_bytes=int(len(groups) > 1), kept=kept)


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
    return {"experts": experts, "evidence": {str(k): float(loss) for k, loss in learned.evidence.items()}}


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
    told = {}
    for name, values in columns.items():
        told[name] = np.full(problem.population, np.nan)
        told[name][ids] = values
    return told
