"""Synchronous rounds on a simulated clock, event by event and client by client: what `scarcity.simulation` does with arrays."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scarcity_ray.core.randomness import hash64, unit
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.scarcity.draws import normal
from scarcity_ray.scarcity.world import World


def chance(seed: int, purpose: str, client: int, round: int) -> float:
    return float(unit(seed, purpose, np.array([client]), round)[0])


@dataclass
class Device:
    """A client's own account."""

    client: int
    world: World
    flops: float
    down: int
    up: int
    battery: float
    joules: float = 0.0
    busy_us: int = 0
    turns: int = 0
    heard: int = 0
    sent: int = 0
    received: int = 0
    free_at: int = 0
    out: str = ""

    def turn(self, round: int) -> tuple[int, int, int, float]:
        w, i = self.world, self.client
        speed, link = (
            math.exp(sigma * float(normal(w.seed, purpose, np.array([i]), round)[0])) if sigma else 1.0
            for sigma, purpose in zip(w.jitter, ("speed jitter", "link jitter"), strict=True)
        )
        seconds = self.flops / (w.flops[i] * speed)
        times = (w.latency[i] + self.down / (w.downlink[i] * link), seconds, w.latency[i] + self.up / (w.uplink[i] * link))
        return (*(round_half_even(1e6 * t) for t in times), w.power[i] * seconds)

    def cannot_pay(self, **charge: float) -> str:
        spent = {"uplink_bytes": self.sent, "downlink_bytes": self.received, "joules": self.joules, "seconds": self.busy_us / 1e6}
        spent["rounds"] = self.turns
        over = [name for name, limit in self.world.budgets.items() if spent[name] + charge.get(name, 0) > limit[self.client]]
        return over[0] if over else ""

    def pass_time(self, seconds: float) -> None:
        w, i = self.world, self.client
        if self.out:
            return
        self.out = self.cannot_pay(joules=w.idle[i] * seconds)
        if not self.out:
            filled = self.battery + w.recharge[i] * seconds
            used = min(w.idle[i] * seconds, filled)
            self.joules, self.battery = self.joules + used, min(filled - used, w.battery[i])


def round_half_even(x: float) -> int:
    return int(np.rint(x))


@dataclass
class Naive:
    """All devices and the clock."""

    world: World
    devices: list[Device]
    clock: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def pass_to(self, time: int) -> None:
        seconds, self.clock = (time - self.clock) / 1e6, time
        for device in self.devices if seconds else ():
            device.pass_time(seconds)

    def usable(self, round: int) -> list[Device]:
        found = []
        for d in [d for d in self.devices if not d.out]:
            a, b, c, work = d.turn(round)
            joules = work + self.world.per_byte[d.client] * (d.down + d.up)
            d.out = d.cannot_pay(uplink_bytes=d.up, downlink_bytes=d.down, joules=joules, seconds=(a + b + c) / 1e6, rounds=1)
            if not d.out and joules > d.battery:  # no world of these tests recharges
                d.out = "battery"
            here = bool(self.world.presence.at(np.array([d.client]), self.clock, round)[0])
            if not d.out and d.free_at <= self.clock and joules <= d.battery and here:
                found.append(d)
        return found

    def round(self, number: int, count: int, answer: Answer) -> bool:
        """Plays a round; False where nothing can follow."""
        w = self.world
        while not (there := self.usable(number)):
            waiting = [d.free_at for d in self.devices if not d.out and d.free_at > self.clock]
            nothing = dict.fromkeys(("available", "selected", "late", "dropped"), 0) | {"heard": [], "clock": self.clock}
            coming = w.presence.next(np.array([d.client for d in self.devices if not d.out], dtype=np.int64), self.clock)
            later = [t for t in [*waiting, *([] if coming is None else [coming])] if t > self.clock]
            if not later:
                self.log.append(nothing)
                return coming is not None and any(not d.out for d in self.devices)
            self.pass_to(min(later))
        needed = min(count, len(there))
        there.sort(key=lambda d: int(hash64(w.seed, "cohort", d.client, number)))
        chosen = there[: min(math.ceil(answer.over_selection * needed), len(there))]
        deadline = math.inf if answer.deadline is None else self.clock + round_half_even(1e6 * answer.deadline)
        events: list[tuple[int, int, str, Device]] = []
        late = dropped = 0
        ends = [self.clock]
        for d in chosen:
            a, b, c, work = d.turn(number)
            before = chance(w.seed, "dropout before", d.client, number) < w.dropout.before
            after = not before and chance(w.seed, "dropout after", d.client, number) < w.dropout.after
            finish = self.clock + a + b + c
            gone = not before and not after and not w.presence.at(np.array([d.client]), finish, number)[0]
            lost = before or after or gone
            time, up = (a if before else a + b if lost else a + b + c), (0 if lost else d.up)
            joules = (0.0 if before else work) + w.per_byte[d.client] * (d.down + up)
            d.joules, d.battery, d.busy_us, d.turns = d.joules + joules, d.battery - joules, d.busy_us + time, d.turns + 1
            d.free_at, d.sent, d.received = self.clock + time, d.sent + up, d.received + d.down
            ends.append(self.clock + time)
            dropped += lost
            if not lost and finish > deadline:
                late += 1
            elif not lost:
                heapq.heappush(events, (finish, d.client, "arrives", d))
        heard: list[Device] = []
        end = None
        while events and len(heard) < needed:
            end, _, _, device = heapq.heappop(events)
            heard.append(device)
        if end is None or len(heard) < needed:
            end = deadline if deadline < math.inf else max(ends)
        end = max(int(end), self.clock + round_half_even(1e6 * answer.interval))
        if len(heard) < math.ceil(answer.minimum * count):
            heard = []
        for device in heard:
            device.heard += 1
        self.pass_to(int(end))
        ids = sorted(device.client for device in heard)
        row = {"available": len(there), "selected": len(chosen), "late": late, "dropped": dropped, "heard": ids, "clock": self.clock}
        self.log.append(row)
        return True
