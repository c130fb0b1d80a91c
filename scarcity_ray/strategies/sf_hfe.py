"""SF-HFE: clients send moments once, Experts solve the heads that their clients' rows together would give, and each

client shrinks its own head towards its expert's. No client's weights go up; its expert's head goes down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.history import History
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.ensemble.choice import Choice
from scarcity_ray.ensemble.differing import Personal
from scarcity_ray.ensemble.heads import as_rows, head_state, placed
from scarcity_ray.ensemble.learning import Learned, learn
from scarcity_ray.ensemble.moments import Packing, targets, with_constant
from scarcity_ray.ensemble.outsiders import admit
from scarcity_ray.ensemble.personal import personal_head
from scarcity_ray.ensemble.random_coefficients import Form, unpack
from scarcity_ray.ensemble.representation import Automatic
from scarcity_ray.ensemble.screening import Screened, screen, screen_surveys
from scarcity_ray.strategies.choosing import TRIAL, answers, blocks_of, heard, moments_round, offered, operations
from scarcity_ray.strategies.represented import SendsMoments, all_messages, messages, to_be_continued
from scarcity_ray.strategies.sf_hfe_report import client_columns, findings, summary
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

    Messages that would spoil what all learn are found first (see ensemble.screening): of a client that takes part under two names, or
    whose unit is wrong. All others learn without them. Their senders are given the expert that fits them best, as a new client is.

    For classes the head's scores s estimate one-hot codes, and outputs are `s / scale` (see ensemble.calibration). The
    greatest score stays the greatest.

    With `representation: {kind: auto}` a trial follows the moments, and its answers choose a block of features before the groups, as if
    there were one expert (see ensemble.choice). Coefficients of features that are left out are 0 and do not go down. With `forgetting`
    the choice of the first messages stays: another one would need a trial in each round.

    The broadcast by name, 4 bytes a number, of which a client counts those of its own expert alone: bandwidth (after a survey, with
    the seed: 8 and 4 bytes), or trunk (its weights, where they are not the seed's); heads float32 `[experts, width, outputs]`,
    scale float64 `[experts]` (4 bytes, for classes), `scatter.k` of each expert k (for personal heads: see RandomCoefficients.pack),
    of kept features alone; kept bool `[width]` where a block of features was chosen (which one: 1 byte). In a trial each client
    gets a head for each block, and `trial.BLOCK`, the covariance of clients' heads.
    Each client gets the number of its expert (1 byte, where there are several). What a client has received is not sent again.
    """

    kind: Literal["sf_hfe"] = "sf_hfe"
    chooses: ClassVar[bool] = True
    sends: ClassVar[str] = 'sums over its rows ("moments"), once; no weights'
    receives: ClassVar[str] = "its expert's head, once"
    fewest: ClassVar[int] = 2  # one could not be left out
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
    screening: Annotated[
        Literal["weigh", "refuse", "off"],
        Field(description="messages of copied clients and of wrong units: count little (a copy: nothing), or nothing; off: all count"),
    ] = "weigh"
    forgetting: Annotated[
        float | None,
        Field(ge=0, le=1, description="what a message counts a round later, where clients send in every round; null: they send once"),
    ] = None

    @property
    def most_experts(self) -> int:
        """As many as are asked for, or may be chosen."""
        return self.max_experts if self.experts == "auto" else self.experts

    @property
    def _form(self) -> Personal:
        """How clients' heads differ from their expert's."""
        return self.differences if self.personal else "none"

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

    def payload(self, problem: Problem, round: int) -> dict[str, int]:
        """As Represented.payload; after the first moments the answers to a trial, where there is a choice of features."""
        spec = self.representation
        if isinstance(spec, Automatic) and round == moments_round(spec) + 1:
            return {TRIAL: len(blocks_of(spec, problem)[0])}
        return super().payload(problem, round)

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        """As Represented.client_update; or the answers to a trial."""
        if TRIAL not in self.payload(task.problem, task.round):
            return super().client_update(task, broadcast, client)
        assert isinstance(self.representation, Automatic)
        return ClientResult(payload={TRIAL: answers(self.representation, task, broadcast, self.mapping(task.problem, broadcast))})

    def flops(
        self, problem: Problem, state: ServerState, round: int, ids: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """As Represented.flops; of a trial the features, and what the answers take."""
        spec = self.representation
        if TRIAL not in self.payload(problem, round):
            return super().flops(problem, state, round, ids, steps)
        assert isinstance(spec, Automatic)
        samples = problem.samples[ids].astype(np.float64)
        return operations(spec, problem, samples) + self.feature_flops(problem, state, samples)

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        """From surveys the representation; from moments the ensemble, and what each Expert is to fit."""
        problem, history, round, spec = context.problem, aggregate.history, context.round, self.representation
        if isinstance(spec, Automatic) and 0 <= round - moments_round(spec) <= 1:
            assert history is not None
            ids, samples, rows = sent = messages(history, moments_round(spec), self.column)
            if len(ids) < self.fewest:
                return ServerUpdate(replace(state, new_bytes=0))
            surveyed = self._surveyed(history, ids)
            if round == moments_round(spec):
                sound = self._screened(self.packing(problem), samples, rows, surveyed).sound
                sent = ids[sound], samples[sound], rows[sound]
                return ServerUpdate(offered(spec, problem, self.packing(problem), state, sent, self._form))
            return self.learned(problem, state, *sent, surveyed=surveyed, choice=heard(spec, problem, history, self.column))
        if self.column not in self.payload(problem, round):
            return super().server_update(context, state, aggregate)
        ids, samples, rows = messages(history, round, self.column)
        if not len(rows):
            return ServerUpdate(replace(state, new_bytes=0))
        assert history is not None
        times = 1
        if self.ends_early:
            ids, samples, rows = all_messages(history, len(spec.asked) + 1, round, self.column)
        elif self.forgetting:
            rows, times = self._remembered(history, ids, rows, round), len(history.rounds)
        if len(ids) < self.fewest:
            return ServerUpdate(replace(state, new_bytes=0))
        choice = heard(spec, problem, history, self.column) if isinstance(spec, Automatic) else None
        return to_be_continued(self.learned(problem, state, ids, samples, rows, times, self._surveyed(history, ids), choice), context)

    def learned(
        self,
        problem: Problem,
        state: ServerState,
        ids: NDArray[np.int64],
        samples: NDArray[np.int64],
        rows: NDArray[np.float32],
        times: int = 1,
        surveyed: Screened | None = None,
        choice: Choice | None = None,
    ) -> ServerUpdate:
        """times: how many messages may be in one, see ensemble.learning. surveyed: what the clients' surveys have shown. choice: of the
        features to learn from; None: all, or the usual."""
        packing, everybody, kept = self.packing(problem), ids, None
        screened = self._screened(packing, samples, rows, surveyed, times)
        if isinstance(self.representation, Automatic):
            blocks, usual = blocks_of(self.representation, problem)
            columns = blocks[usual if choice is None else choice.name]
            kept = _kept(columns, packing.width)
            packing, rows = packing.only(rows, columns)
        outside, sound = ~screened.sound, screened.sound
        outsiders, weights = (rows[outside], samples[outside]), screened.weights[outside] * (self.screening == "weigh")
        if outside.any():
            ids, samples, rows = ids[sound], samples[sound], rows[sound]
        learned = learn(
            packing,
            rows,
            samples,
            experts=None if self.experts == "auto" else self.experts,
            most=self.max_experts,
            personal=self._form,
            router=self.router,
            seed=problem.seed,
            times=times,
        )
        learned, experts = admit(learned, packing, *outsiders, weights, times)
        of_clients = client_columns(problem, ids, learned)
        of_clients["expert_id"][everybody[outside]] = experts
        of_clients["screening_weight"] = np.full(problem.population, np.nan)
        if self.screening != "off":
            of_clients["screening_weight"][ids] = 1.0
            of_clients["screening_weight"][everybody[outside]] = weights
        return ServerUpdate(
            self._state(problem, state, of_clients["expert_id"], learned, kept),
            {k: (group.fitted, group.strength, group.scale) for k, group in enumerate(learned.groups)},
            clients=of_clients,
            learned=summary(learned, ids, samples, choice) | {"screened": findings(everybody, screened, of_clients["screening_weight"])},
            deliver=True,
            done=self.ends_early,
        )

    def with_experts(self, update: ServerUpdate, heads: Mapping[int, Tensor]) -> ServerState:
        """The same with the experts' heads."""
        if not heads:
            return update.state
        fitted, state = torch.stack([heads[k] for k in sorted(heads)]), update.state
        new_bytes = (state.new_bytes or 0) + fitted[0].numel() * torch.float32.itemsize
        if "kept" in state.broadcast:
            fitted = placed(fitted, state.broadcast["kept"], 1)
        down = fitted.float()
        return replace(state, broadcast={**state.broadcast, "heads": down}, private={**state.private, "heads": fitted}, new_bytes=new_bytes)

    def receive(self, task: Task, broadcast: State, client: State) -> State:
        """Each client's own head, from its own rows and its expert's head."""
        if "row" not in client or "heads" not in broadcast:
            return client
        problem, rows = task.problem, []
        to_features, width = self.mapping(problem, broadcast), self.packing(problem).width
        kept = broadcast["kept"] if "kept" in broadcast else torch.ones(width, dtype=torch.bool)
        for i, k in enumerate(broadcast["expert"].tolist()):
            head = broadcast["heads"][k].double()
            if self.personal:
                x, y = task.rows(i)
                f = with_constant(to_features(x).double())
                scatter = _unpacked(broadcast[f"scatter.{k}"].numpy(), kept)
                head = personal_head(f, targets(y, problem.task, problem.outputs), head, scatter)
            rows.append(head / broadcast["scale"][k])
        return {"row": as_rows(torch.stack(rows))}

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        """Each client's own head, or the one expert's for all; none before there is one."""
        if "heads" not in broadcast:
            return {}
        return {"personal": client["row"]} if client else {"global": as_rows(broadcast["heads"].double() / broadcast["scale"][0])}

    # -- what the halves share ---------------------------------------------------------------------------------------

    def trusted(self, surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those in whose surveys nothing is wrong, if they are screened."""
        return super().trusted(surveys, samples) if self.screening == "off" else screen_surveys(surveys, samples).sound

    def _surveyed(self, history: History, ids: NDArray[np.int64]) -> Screened | None:
        """What surveys have shown of clients `[k]`, where they were asked for one; they send it in the first round."""
        if not self.representation.asked or self.screening == "off":
            return None
        who, samples, surveys = messages(history, 1, "survey")
        return screen_surveys(surveys, samples).of(who, ids)

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

    def _screened(
        self, packing: Packing, samples: NDArray[np.int64], rows: NDArray[np.float32], surveyed: Screened | None, times: int = 1
    ) -> Screened:
        """What is wrong with whose message; nothing with screening off."""
        return Screened(np.ones(len(samples))) if self.screening == "off" else screen(packing, rows, samples, surveyed, times)

    def _state(
        self, problem: Problem, state: ServerState, members: NDArray[np.float64], learned: Learned, chosen: Tensor | None
    ) -> ServerState:
        """All but the heads. A client without a message (NaN) belongs to the first expert, which is the largest.

        chosen: which of all features were learned from, bool `[width]`; None where there was no choice.
        """
        groups = learned.groups
        kept = torch.ones(self.packing(problem).width, dtype=torch.bool) if chosen is None else chosen
        expert = torch.from_numpy(np.nan_to_num(members).astype(np.int64))
        scale = torch.tensor([group.scale for group in groups], dtype=torch.float32).double()
        packed = [np.zeros(2, dtype=np.float32) if group.scatter is None else group.scatter.pack() for group in groups]
        down = 4 * (problem.task == "classification") + (max(part.nbytes for part in packed) if self.personal else 0)
        private = {
            "client_id": torch.arange(problem.population),
            "expert_id": expert,
            "whole": placed(learned.whole, kept, 0),
            "scale": scale,
            "noise": torch.tensor([group.noise for group in groups], dtype=torch.float64),
            "scatters": _together([_unpacked(scatter, kept) for scatter in packed]),
            "covariances": placed(torch.stack([group.covariance for group in groups]), kept, 1, 2),
            # a file has no scalars
            **{name: value.reshape(value.shape or (1,)) for name, value in learned.router.among(kept[:-1]).tensors().items()},
        }
        passing = ("scatter.", f"{TRIAL}.")  # there may be fewer experts now, and a trial is over
        known = {name: value for name, value in state.broadcast.items() if not name.startswith(passing)}
        scatters = {f"scatter.{k}": torch.from_numpy(scatter) for k, scatter in enumerate(packed)}
        down += int(len(groups) > 1)
        if chosen is not None:
            known, down = {**known, "kept": chosen}, down + 1
        return ServerState({**known, "scale": scale, **scatters}, {"expert": expert}, private, down)


def _kept(columns: NDArray[np.int64], width: int) -> Tensor:
    """Which of `width` features are in these columns, bool `[width]`; the last is the constant, which always is."""
    kept = torch.zeros(width, dtype=torch.bool)
    kept[torch.from_numpy(columns)] = kept[-1] = True
    return kept


def _unpacked(scatter: NDArray[np.floating], kept: Tensor) -> Tensor:
    """A covariance of the kept features, among all: its diagonal `[width]`, or `[width, width]`."""
    own = unpack(scatter, int(kept.sum()))
    return placed(own, kept, *range(own.ndim))


def _together(covariances: list[Tensor]) -> Tensor:
    """Diagonals `[experts, width]` where all are such, else `[experts, width, width]`."""
    if all(one.ndim == 1 for one in covariances):
        return torch.stack(covariances)
    return torch.stack([torch.diag(one) if one.ndim == 1 else one for one in covariances])
