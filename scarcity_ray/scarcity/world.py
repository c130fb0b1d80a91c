"""The world of a run: each client's speed, links, energy and budgets, and what a turn costs it. Nothing here changes in a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scarcity_ray.core.randomness import unit
from scarcity_ray.core.spec import SpecError
from scarcity_ray.scarcity.availability import SECOND, Mask, Population, Presence
from scarcity_ray.scarcity.draws import Draw, Floats, Ids, drawn, normal
from scarcity_ray.scarcity.spec import Budget, Dropout, Scarcity

BUDGETS = tuple(Budget.model_fields)
"""The things that a client may run out of, as `budget` names them."""
_LONGEST = 1e15  # microseconds, 32 years: a sum of many stays an int64


@dataclass(frozen=True)
class Turn:
    """What a round would be for clients `[n]`: times of its three parts in microseconds, latency included, and joules of the work and of a
    byte."""

    download: Ids
    work: Ids
    upload: Ids
    work_joules: Floats
    per_byte: Floats

    @property
    def total(self) -> Ids:
        """Microseconds from its start to the arrival of what it sends."""
        return self.download + self.work + self.upload

    def joules(self, moved: Ids) -> Floats:
        """Joules of the work and of so many bytes, `[n]`."""
        joules: Floats = self.work_joules + self.per_byte * moved
        return joules


@dataclass(frozen=True)
class World:
    """Values `[clients]` of each client; without a limit they are infinite, or 0 where they cost.

    flops: operations a second. downlink, uplink: bytes a second. latency: seconds a message. memory: bytes. power, idle, recharge: watts.
    per_byte: joules. battery: joules. budgets: by name of BUDGETS. deadline: microseconds, None without one.
    """

    seed: int
    flops: Floats
    downlink: Floats
    uplink: Floats
    latency: Floats
    memory: Floats
    power: Floats
    idle: Floats
    per_byte: Floats
    battery: Floats
    recharge: Floats
    presence: Presence
    budgets: dict[str, Floats] = field(default_factory=dict)
    dropout: Dropout = field(default_factory=Dropout)
    jitter: tuple[float, float] = (0.0, 0.0)
    deadline: int | None = None

    @classmethod
    def of(cls, spec: Scarcity, population: Population) -> World:
        """The world of these clients. Raises SpecError for values that cannot be: a speed of 0, a probability above 1."""

        def values(path: tuple[str, ...], draw: Draw, positive: bool = False) -> Floats:
            try:
                found = drawn(draw, population.seed, " ".join(path), population.clients, population.columns)
            except SpecError as error:
                raise SpecError(("scarcity", *path, *error.field), error.value, error.message) from None
            if positive and (found <= 0).any():
                raise SpecError(("scarcity", *path), float(found.min()), "some clients would have 0: give a law whose values are above 0")
            return found

        def optional(path: tuple[str, ...], draw: Draw | None) -> Floats:
            return np.full(population.clients, np.inf) if draw is None else values(path, draw)

        endless, nothing = np.full(population.clients, np.inf), np.zeros(population.clients)
        compute, network, energy, budget = spec.compute, spec.network, spec.energy, spec.budget
        try:
            presence = spec.availability.presence(population)
        except SpecError as error:
            raise SpecError(("scarcity", "availability", *error.field), error.value, error.message) from None
        down = endless if network is None else values(("network", "downlink"), network.downlink, True) * 1e6 / 8
        ratio = 1.0 if network is None else values(("network", "uplink_ratio"), network.uplink_ratio, True)
        return cls(
            population.seed,
            endless if compute is None else values(("compute", "speed"), compute.speed, True) * 1e9,
            down,
            down * ratio,
            nothing if network is None else values(("network", "latency"), network.latency),
            endless if compute is None else optional(("compute", "memory"), compute.memory) * 2**20,
            nothing if energy is None else values(("energy", "power"), energy.power),
            nothing if energy is None else values(("energy", "idle"), energy.idle),
            nothing if energy is None else values(("energy", "per_byte"), energy.per_byte),
            endless if energy is None else optional(("energy", "battery"), energy.battery),
            nothing if energy is None else values(("energy", "recharge"), energy.recharge),
            presence,
            {} if budget is None else {name: optional(("budget", name), getattr(budget, name)) for name in BUDGETS},
            spec.dropout or Dropout(),
            (0.0 if compute is None else compute.jitter, 0.0 if network is None else network.jitter),
            None if spec.deadline is None else round(spec.deadline * SECOND),
        )

    @property
    def clients(self) -> int:
        """Number of clients."""
        return len(self.flops)

    @cached_property
    def has_batteries(self) -> bool:
        """Whether any client's battery has an end."""
        return bool(np.isfinite(self.battery).any())

    def turn(self, round: int | None, ids: Ids, flops: Floats, down: Ids, up: Ids) -> Turn:
        """What a round's turn takes of clients `[n]` with so many operations and bytes each: 2 latency + down / downlink + flops / speed +
        up / uplink, each part rounded to microseconds, and at most _LONGEST. round: None for one as they usually are, without jitter."""
        speed, link = (
            np.exp(sigma * normal(self.seed, purpose, ids, round)) if sigma and round is not None else np.ones(len(ids))
            for sigma, purpose in zip(self.jitter, ("speed jitter", "link jitter"), strict=True)
        )
        seconds = flops / (self.flops[ids] * speed)
        parts = (
            self.latency[ids] + down / (self.downlink[ids] * link),
            seconds,
            self.latency[ids] + up / (self.uplink[ids] * link),
        )
        download, work, upload = (np.rint(np.minimum(part * SECOND, _LONGEST)).astype(np.int64) for part in parts)
        return Turn(download, work, upload, self.power[ids] * seconds, self.per_byte[ids])

    def dropped(self, round: int, ids: Ids) -> tuple[Mask, Mask]:
        """Which of the clients `[n]` are lost before the work, and which of the others after it."""
        shares = (("dropout before", self.dropout.before), ("dropout after", self.dropout.after))
        before, after = (
            unit(self.seed, purpose, ids, round) < share if share else np.zeros(len(ids), dtype=np.bool_) for purpose, share in shares
        )
        return before, ~before & after
