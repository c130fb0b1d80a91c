"""Availability: who is present when, by clock time, so that a slow strategy meets the same world as a fast one.

Each rule answers for any moment by a hash of (seed, purpose, client, time), without having played the time before. Times are int64
microseconds of the simulated clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.federation import Spans
from scarcity_ray.core.randomness import unit
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.scarcity.draws import Draw, Floats, Ids, drawn

SECOND = 1_000_000  # microseconds
_EPOCH = 64  # mean times on and off of a Markov chain after which its state is drawn again, so that no state needs all of the past
_LOOK = 4096  # slots or epochs that are looked ahead for somebody to appear; then nobody will

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Population:
    """What a rule may know of the clients. labels: `[clients]`, the lowest class of each client's training rows as a share of the highest
    class of all, from 0 to 1; None for a regression. columns: of the user's table. spans: of the trace, None without one."""

    seed: int
    clients: int
    labels: Floats | None
    columns: Mapping[str, Floats]
    spans: Spans | None = None


class Always(Spec):
    """Every client is there all the time."""

    kind: Literal["always"] = "always"

    def presence(self, population: Population) -> Presence:
        """The rule for these clients."""
        return Presence(population.clients)


class ByLabel(Spec):
    """Presence that depends on the labels that a client holds."""

    low: Annotated[float, Field(gt=0, le=1, description="share of rounds of a client that holds class 0")]
    high: Annotated[float, Field(gt=0, le=1, description="share of rounds of a client that holds the last class alone")]


class Bernoulli(Spec):
    """Each client is there in each round with its own probability, independently of the rounds before and of the clock.

    by_label: p_i = low + (high - low) min(labels of i) / (classes - 1), so that presence and labels go together (Gu, Huang, Zhang and
    Huang, "Fast Federated Learning in the Presence of Arbitrary Device Unavailability" (MIFA), NeurIPS 2021, section 6).
    """

    kind: Literal["bernoulli"] = "bernoulli"
    p: Annotated[Draw, Field(description="probability that a client is there in a round, from 0 to 1")] = 1.0
    by_label: Annotated[ByLabel | None, Field(description="a probability by the client's labels, in place of p; null: by p")] = None

    def presence(self, population: Population) -> Presence:
        """As Always.presence. Raises SpecError for a regression by label, and for values that are no probabilities."""
        if self.by_label is None:
            p = drawn(self.p, population.seed, "presence p", population.clients, population.columns)
            return _Rounds(population, _shares(("p",), p))
        if population.labels is None:
            raise SpecError(("by_label",), self.by_label.model_dump(), "a regression has no classes: use p")
        return _Rounds(population, self.by_label.low + (self.by_label.high - self.by_label.low) * population.labels)


class Markov(Spec):
    """Clients come and go: a chain with one step a second leaves its state with probability 1 / `on` or 1 / `off`.

    The share of the time on is on / (on + off), and the correlation of the states a second apart 1 - 1 / on - 1 / off. Each 64 (on + off)
    seconds the state is drawn again, which lowers correlations over such times a little.
    """

    kind: Literal["markov"] = "markov"
    on: Annotated[float, Field(ge=1, description="mean seconds that a client stays")] = 300.0
    off: Annotated[float, Field(ge=1, description="mean seconds that it stays away")] = 600.0
    groups: Annotated[int | None, Field(ge=1, description="clients in so many groups come and go together; null: each by itself")] = None

    def presence(self, population: Population) -> Presence:
        """As Always.presence."""
        return _Chains(population, self)


class Diurnal(Spec):
    """More clients at some hours: each is there with probability mean * (1 + amplitude * sin(2 pi (t / period + phase))), drawn again
    in each slot."""

    kind: Literal["diurnal"] = "diurnal"
    mean: Annotated[float, Field(gt=0, le=1, description="mean share of the time that a client is there")] = 0.5
    amplitude: Annotated[float, Field(ge=0, le=1, description="swing about the mean, as a share of it; 0.6: fourfold at the peak")] = 0.6
    period: Annotated[float, Field(gt=0, description="seconds of a day")] = 86400.0
    phase: Annotated[Draw, Field(description="where in the day a client starts, as a share of it")] = 0.0
    slot: Annotated[float, Field(gt=0, description="seconds from one draw to the next")] = 600.0

    @model_validator(mode="after")
    def _probability(self) -> Self:
        if self.mean * (1 + self.amplitude) > 1:
            raise ValueError(f"mean * (1 + amplitude) is {self.mean * (1 + self.amplitude):g}, no probability: lower one of them")
        return self

    def presence(self, population: Population) -> Presence:
        """As Always.presence."""
        return _Days(population, self, drawn(self.phase, population.seed, "presence phase", population.clients, population.columns))


class Trace(Spec):
    """Clients are there when a file says so. A client without a span in it never is."""

    kind: Literal["trace"] = "trace"
    path: Annotated[
        str, Field(min_length=1, description="CSV or Parquet with the columns client, start and end (seconds); by the scenario's folder")
    ]

    def presence(self, population: Population) -> Presence:
        """As Always.presence."""
        assert population.spans is not None
        return _Traced(population.clients, population.spans)


Availability = Annotated[Always | Bernoulli | Markov | Diurnal | Trace, Field(discriminator="kind")]


class Presence:
    """Who is present when. This one: everybody, always. group: `[clients]`, of those that come and go together; None where each does by
    itself."""

    group: Ids | None = None

    def __init__(self, clients: int) -> None:
        self.clients = clients

    def at(self, ids: Ids, time: Ids | int, round: int) -> Mask:
        """Which of the clients `[n]` are there at a time, `[n]` or one for all, in a round (of the rounds that know no clock)."""
        return np.ones(len(ids), dtype=np.bool_)

    def next(self, ids: Ids, time: int) -> int | None:
        """A time from `time` on at which one of the clients may be there, `time` itself where only another round helps; None if there is
        none."""
        return time if len(ids) else None


class _Rounds(Presence):
    def __init__(self, population: Population, p: Floats) -> None:
        super().__init__(population.clients)
        self.seed, self.p = population.seed, p

    def at(self, ids: Ids, time: Ids | int, round: int) -> Mask:
        there: Mask = unit(self.seed, "presence", ids, round) < self.p[ids]
        return there


class _Slots(Presence):
    """Presence that stays the same within slots of the clock."""

    slot: int

    def next(self, ids: Ids, time: int) -> int | None:
        first = time // self.slot + 1
        for place in range(first, first + _LOOK) if len(ids) else ():
            if self.at(ids, place * self.slot, 0).any():
                return place * self.slot
        return None


class _Days(_Slots):
    def __init__(self, population: Population, spec: Diurnal, phase: Floats) -> None:
        super().__init__(population.clients)
        self.seed, self.spec, self.phase, self.slot = population.seed, spec, phase, max(1, round(spec.slot * SECOND))

    def at(self, ids: Ids, time: Ids | int, round: int) -> Mask:
        slot = np.asarray(time) // self.slot
        day = slot * (self.slot / (self.spec.period * SECOND)) + self.phase[ids]
        there: Mask = unit(self.seed, "presence", ids, slot) < self.spec.mean * (1 + self.spec.amplitude * np.sin(2 * math.pi * day))
        return there


class _Chains(_Slots):
    """The chain of each client or group: drawn from its stationary law at the start of each epoch, then by geometric times on and off."""

    slot = SECOND

    def __init__(self, population: Population, spec: Markov) -> None:
        super().__init__(population.clients)
        self.seed, self.spec = population.seed, spec
        ids = np.arange(population.clients)
        self.chain = ids if spec.groups is None else (unit(self.seed, "presence group", ids) * spec.groups).astype(np.int64)
        self.group = None if spec.groups is None else self.chain
        self.epoch = max(1, round(_EPOCH * (spec.on + spec.off)))
        # The stay of each chain that was asked for last: epoch, begin and end in it (seconds), number, state. It follows from the seed, and
        # saves walking the epoch again from its start as the clock goes on.
        self.stays = np.full((population.clients, 5), -1, dtype=np.int64)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Each process has stays of its own to change: Ray hands arrays over that are read-only."""
        vars(self).update(state)
        self.stays = self.stays.copy()

    def at(self, ids: Ids, time: Ids | int, round: int) -> Mask:
        return self._walk(ids, np.broadcast_to(np.asarray(time) // SECOND, ids.shape))[0]

    def next(self, ids: Ids, time: int) -> int | None:
        best, waiting = np.iinfo(np.int64).max, ids
        second = np.full(len(ids), time // SECOND + 1)
        for _ in range(_LOOK):  # each step ends a stay, or an epoch
            if not len(waiting):
                break
            there, until = self._walk(waiting, second)
            best = min(best, int(second[there].min(initial=best)))
            later = ~there & (until < best)
            waiting, second = waiting[later], until[later]
        return None if best == np.iinfo(np.int64).max else best * SECOND

    def _walk(self, ids: Ids, second: Ids) -> tuple[Mask, Ids]:
        """The states of clients `[n]` at a second each, and the first second at which the next stay, or the next epoch, begins."""
        chains, epoch, into = self.chain[ids], second // self.epoch, second % self.epoch
        spec, stay = self.spec, self.stays[chains]
        fresh = (stay[:, 0] != epoch) | (stay[:, 1] > into)
        state = stay[:, 4] == 1
        state[fresh] = unit(self.seed, "presence start", chains[fresh], epoch[fresh]) < spec.on / (spec.on + spec.off)
        begin, end, turn = (np.where(fresh, 0, stay[:, column]) for column in (1, 2, 3))
        waiting = np.flatnonzero(fresh | (end <= into))
        ended = waiting[~fresh[waiting]]
        begin[ended], state[ended], turn[ended] = end[ended], ~state[ended], turn[ended] + 1
        while len(waiting):  # one stay of all chains that have not reached their second yet
            leave = np.where(state[waiting], 1 / spec.on, 1 / spec.off)
            draws = unit(self.seed, "presence stay", chains[waiting], epoch[waiting], turn[waiting])
            with np.errstate(divide="ignore"):
                length = 1 + np.floor(np.log(draws) / np.log1p(-leave))  # geometric, at least one second
            end[waiting] = begin[waiting] + np.minimum(length, self.epoch + 1).astype(np.int64)
            waiting = waiting[end[waiting] <= into[waiting]]
            begin[waiting], state[waiting], turn[waiting] = end[waiting], ~state[waiting], turn[waiting] + 1
        self.stays[chains] = np.stack([epoch, begin, end, turn, state], axis=1)
        return state, epoch * self.epoch + np.minimum(end, self.epoch)


class _Traced(Presence):
    def __init__(self, clients: int, spans: Spans) -> None:
        super().__init__(clients)
        self.spans, self.owner = spans, np.repeat(np.arange(clients), np.diff(spans.starts))

    def at(self, ids: Ids, time: Ids | int, round: int) -> Mask:
        spans, there = self.spans, np.zeros(len(ids), dtype=np.bool_)
        for place, (client, moment) in enumerate(zip(ids.tolist(), np.broadcast_to(time, ids.shape).tolist(), strict=True)):
            mine = slice(int(spans.starts[client]), int(spans.starts[client + 1]))
            last = int(np.searchsorted(spans.begin[mine], moment, side="right")) - 1
            there[place] = last >= 0 and moment < spans.end[mine][last]
        return there

    def next(self, ids: Ids, time: int) -> int | None:
        begin = self.spans.begin[np.isin(self.owner, ids)]
        later = begin[begin > time]
        return int(later.min()) if len(later) else None


def _shares(field: tuple[str, ...], values: Floats) -> Floats:
    if (values > 1).any():
        raise SpecError(field, float(values.max()), "a probability is at most 1")
    return values
