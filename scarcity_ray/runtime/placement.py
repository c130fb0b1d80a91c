"""Which machine an actor is on, which clients each actor keeps, and which actor does whose work in a round."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class NodeResources:
    """A node that offers CPUs. node: its id. memory: bytes that Ray may use there, shared and private; 0 where it does not say."""

    node: str
    cpus: int
    memory: int = 0


def spread(count: int, slots: Sequence[NodeResources]) -> list[int]:
    """How many of `count` actors each slot is dealt: by its share of the CPUs, whole actors by the largest remainder.

    So no node has more actors than CPUs while another has a free one. Raises ValueError where there are no slots.
    """
    if not slots:
        raise ValueError("no node offers CPUs")
    total = sum(slot.cpus for slot in slots)
    dealt = [count * slot.cpus // total for slot in slots]
    remainders = sorted(range(len(slots)), key=lambda place: (-(count * slots[place].cpus % total), place))
    for place in remainders[: count - sum(dealt)]:
        dealt[place] += 1
    return dealt


def cpus_each(count: int, slots: Sequence[NodeResources]) -> float:
    """The CPUs that each of `count` actors may hold so that all fit where `spread` puts them: at most 1, in Ray's steps of 0.0001.

    Dividing all CPUs by all actors would not do: 7 actors of 5/7 do not fit on nodes of 3 and 2 CPUs.
    """
    steps = [slot.cpus * 10_000 // dealt for slot, dealt in zip(slots, spread(count, slots), strict=True) if dealt]
    return min(10_000, *steps) / 10_000


def deal(ids: Ids, work: NDArray[np.int64], hands: int) -> list[Ids]:
    """Clients to actors, longest work first to the actor with least so far (Graham's LPT rule); each hand by rising id."""
    if hands == 1:
        return [ids]
    order = np.lexsort((ids, -work))
    loads = [(0, 0, hand) for hand in range(hands)]
    owner = np.empty(len(ids), dtype=np.int64)
    for place, amount in zip(order.tolist(), work[order].tolist(), strict=True):
        load, count, hand = loads[0]
        owner[place] = hand
        heapq.heapreplace(loads, (load + amount, count + 1, hand))
    return [np.sort(ids[owner == hand]) for hand in range(hands)]


def blocks(samples: NDArray[np.int64], count: int) -> list[Ids]:
    """The clients of `count` blocks, as many in each (+-1): dealt by falling number of rows, forwards and backwards."""
    place = np.arange(len(samples))
    order = np.lexsort((place, -samples))
    turn, seat = place // count, place % count
    owner = np.where(turn % 2 == 0, seat, count - 1 - seat)
    return [np.sort(order[owner == block]) for block in range(count)]
