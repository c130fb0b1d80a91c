"""SF-HFE: clients send moments once, an Expert solves the head that everybody's rows together would give, and each

client shrinks its own head towards it. No client's weights go up; the expert's head goes down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from scarcity_ray.ensemble.heads import as_rows, head_state, linear_head, represented
from scarcity_ray.ensemble.moments import Moments, Packing, targets, with_constant
from scarcity_ray.ensemble.personal import Prior, choose_prior, personal_head
from scarcity_ray.ensemble.representation import RandomFourier, Representation, bandwidth, features, survey
from scarcity_ray.ensemble.ridge import all_rows, choose_strength
from scarcity_ray.federation import Shards
from scarcity_ray.randomness import hash64
from scarcity_ray.spec import SpecError
from scarcity_ray.strategies.strategy import Guidance, InsightStrategy, Lesson, State
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

_LEAST_NOISE = 1e-6  # classes told apart without any error still get finite outputs


class SfHfe(InsightStrategy):
    """Least squares on a fixed representation, from one message of moments a client (see ensemble.moments).

    A representation that needs a bandwidth takes a round before: a survey up, a seed and the bandwidth down. Then
    moments go up and the MetaLearner sums them. Two choices are made by how well clients foretell a client left out,
    never by test rows: the strength of the expert's ridge head, and how far clients' heads may differ from it. The head
    goes down, each client makes its own, and the strategy ends: the same rows would only say the same again.

    For classes the head's scores s estimate one-hot codes, and outputs are `s / noise`: their softmax is the posterior of
    the class if s is its code plus Gaussian errors of that variance. noise is the leave-one-client-out squared error per
    row over classes - 1: scores sum to one, so that many are free. The greatest score stays the greatest. True errors
    have heavier tails, so the probabilities are somewhat too sure.

    Guidance by name: seed, bandwidth (8 and 4 bytes, after a survey); head float32 `[width, outputs]`, noise, slope and
    intercept (the last two for personal heads alone), 4 bytes a number. What a client was told before is not sent again.
    """

    has_experts: ClassVar[bool] = True
    kind: Literal["sf_hfe"] = "sf_hfe"
    representation: Annotated[Representation, Field(description="the fixed features that heads are linear in")] = RandomFourier()
    personal: Annotated[bool, Field(description="each client shrinks its own head towards the expert's; false: all use the expert's")] = (
        True
    )

    # -- what it learns ----------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation; its shape stays that of the clients' inputs.

        Raises SpecError for a single client: nobody could be left out.
        """
        if problem.population < 2:
            raise SpecError(("data", "clients"), problem.population, "sf_hfe chooses its strengths by leaving one client out: 2 at least")
        width = self.representation.width(problem.shape)
        made = make_problem(
            linear_head(width, problem.outputs),
            local=problem.local,
            task=problem.task,
            outputs=problem.outputs,
            shape=(width,),
            samples=problem.samples,
            seed=problem.seed,
        )
        return replace(made, shape=problem.shape)

    def memory(self, problem: Problem) -> State:
        """A client's own head as a row, where heads are personal."""
        return {"row": torch.zeros_like(problem.row)} if self.personal else {}

    def view(self, problem: Problem, server: Any, shards: Shards) -> Shards:
        """Each row's features; zeros while the representation is not yet known (the head is zero then as well)."""
        width = self.representation.width(problem.shape)
        if not self._known(server):
            return Shards(np.broadcast_to(np.float32(0), (len(shards.x), width)), shards.y, shards.starts)
        return features(self._map(problem, server), shards, width)

    def module(self, problem: Problem, server: Any) -> nn.Module:
        """Representation and head, `[n, *shape] -> [n, outputs]`: reproduces the predictions of the expert or, with a
        client's head in its place, of the client."""
        return represented(self._map(problem, server), self.representation.width(problem.shape), problem.outputs)

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        """The representation's frequencies and phases, and the expert's head, by the names of `module`."""
        if "head" not in server.shared:
            return {}
        head = torch.from_numpy(server.shared["head"]).double() / server.shared.get("noise", 1.0)
        return {**self.module(problem, server).state_dict(), **head_state(head)}

    # -- rounds ------------------------------------------------------------------------------------------------------

    def open(self, problem: Problem) -> Guidance:
        """Nothing has to be said before the first messages."""
        return Guidance()

    def payload(self, problem: Problem, round: int) -> dict[str, int]:
        """A survey first where the representation needs a bandwidth, then moments."""
        if self.representation.surveyed and round == 1:
            return {"survey": math.prod(problem.shape) + 1}
        return {"moments": self._packing(problem).size}

    def act(self, task: Task, guidance: Guidance, mine: State) -> tuple[Mapping[str, Tensor], State]:
        """Sums over each client's rows (as they are, not their features); no training."""
        if not self._known(guidance):
            return {"survey": torch.stack([survey(task.rows(i)[0]) for i in range(task.k)])}, mine
        packing, to_features = self._packing(task.problem), self._map(task.problem, guidance)
        rows = []
        for i in range(task.k):
            x, y = task.rows(i)
            rows.append(packing.pack(Moments.of(to_features(x), y, task.problem.task, task.problem.outputs)))
        return {"moments": torch.stack(rows)}, mine

    def learn(self, problem: Problem, history: Any, round: int) -> Lesson:
        """From surveys the representation; from moments both strengths, and what the Expert is to fit."""
        (column,) = self.payload(problem, round)
        rows, samples = _messages(history, round, column)
        if not len(rows):
            return Lesson({}, Guidance())
        if column == "survey":
            return Lesson({}, Guidance(self._seeded(problem, history), shared_bytes=8 + 4))
        packing = self._packing(problem)
        total, clients = packing.total(rows, samples), all_rows(packing, rows, samples)
        strength, left_out = choose_strength(total, clients)
        told: dict[str, float] = {}
        if problem.task == "classification":
            told["noise"] = max(left_out.loss * problem.outputs / max(problem.outputs - 1, 1), _LEAST_NOISE)
        if self.personal:
            prior = choose_prior(total, clients, left_out)
            told |= {"slope": prior.slope, "intercept": prior.intercept}
        told = {name: float(np.float32(value)) for name, value in told.items()}
        guidance = Guidance({**self._seeded(problem, history), **told}, shared_bytes=4 * len(told))
        summary = {"strength": strength, "left_out_loss": left_out.loss, **told}
        return Lesson(summary, guidance, {0: (total, strength, told.get("noise", 1.0))}, done=True)

    def instruct(self, lesson: Lesson, heads: Mapping[int, Tensor]) -> Guidance:
        """The lesson's guidance, and the expert's head once it has fitted one."""
        if 0 not in heads:
            return lesson.guidance
        head = heads[0].numpy().astype(np.float32)
        guidance = lesson.guidance
        return replace(guidance, shared={**guidance.shared, "head": head}, shared_bytes=guidance.shared_bytes + head.nbytes)

    def receive(self, task: Task, guidance: Guidance, mine: State) -> State:
        """Each client's own head, from its own rows and the expert's head; nothing where all use the expert's."""
        if not self.personal or "head" not in guidance.shared:
            return mine
        told, problem = guidance.shared, task.problem
        prior, to_features = Prior(told["slope"], told["intercept"]), self._map(problem, guidance)
        head = torch.from_numpy(told["head"]).double()
        heads = []
        for i in range(task.k):
            x, y = task.rows(i)
            f = with_constant(to_features(x).double())
            heads.append(personal_head(f, targets(y, problem.task, problem.outputs), head, prior))
        return {"row": as_rows(torch.stack(heads) / told.get("noise", 1.0))}

    def answer(self, guidance: Guidance, mine: State) -> Tensor | None:
        """Each client's own head, or the expert's for all; None before there is one."""
        told = guidance.shared
        if "head" not in told:
            return None
        if self.personal:
            return mine["row"]
        return as_rows(torch.from_numpy(told["head"])[None].double() / told.get("noise", 1.0))

    # -- what the halves share ---------------------------------------------------------------------------------------

    def _packing(self, problem: Problem) -> Packing:
        return Packing(self.representation.width(problem.shape) + 1, problem.outputs, problem.task)

    def _known(self, guidance: Guidance) -> bool:
        return not self.representation.surveyed or "bandwidth" in guidance.shared

    def _map(self, problem: Problem, guidance: Guidance) -> nn.Module:
        told = guidance.shared
        return self.representation.module(problem.shape, told.get("seed", 0), told.get("bandwidth", 1.0))

    def _seeded(self, problem: Problem, history: Any) -> dict[str, Any]:
        """Seed and bandwidth, from the surveys of round 1; empty where the representation has none."""
        if not self.representation.surveyed:
            return {}
        return {"seed": int(hash64(problem.seed, "representation")), "bandwidth": bandwidth(*_messages(history, 1, "survey"))}


def _messages(history: Any, round: int, column: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A payload `[k, size]` of a round by rising client id, and the training rows of each client `[k]`."""
    table = history.query(rounds=round, columns=["num_samples", column])
    samples = table["num_samples"].to_numpy().astype(np.int64)
    values = table[column].combine_chunks().flatten().to_numpy()
    return values.reshape(len(samples), -1) if len(samples) else np.zeros((0, 0), dtype=np.float32), samples
