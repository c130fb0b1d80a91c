"""Machines that offer CPUs, and how many actors each of them is dealt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A node that offers CPUs. node: its id. memory: bytes that Ray may use there, shared and private; 0 where it does not say."""

    node: str
    cpus: int
    memory: int = 0


def spread(count: int, slots: Sequence[Slot]) -> list[int]:
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


def cpus_each(count: int, slots: Sequence[Slot]) -> float:
    """The CPUs that each of `count` actors may hold so that all fit where `spread` puts them: at most 1, in Ray's steps of 0.0001.

    Dividing all CPUs by all actors would not do: 7 actors of 5/7 do not fit on nodes of 3 and 2 CPUs.
    """
    steps = [slot.cpus * 10_000 // dealt for slot, dealt in zip(slots, spread(count, slots), strict=True) if dealt]
    return min(10_000, *steps) / 10_000
