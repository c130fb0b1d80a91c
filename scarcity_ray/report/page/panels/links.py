"""How long the messages of a client take on a link of a given speed."""

from __future__ import annotations

from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Links, Panel, Table
from scarcity_ray.report.units import duration, size

SPEEDS = {"64 kbit/s": 64e3, "1 Mbit/s": 1e6, "20 Mbit/s": 20e6}
"""Bits in a second: a bad mobile link, a slow line, a good one."""


def links(facts: Facts) -> Panel:
    """The bytes of each strategy in both directions, and the time that they take."""
    title = "Time on a link"
    sent = {name: facts.entries[name]["bytes_per_client"] for name in facts.played}
    sent = {name: count for name, count in sent.items() if count > 0}
    if not sent:
        return Panel("links", title)
    rows = [
        [
            name,
            *(size(facts.entries[name][f"{way}link_bytes_per_client"]) for way in ("up", "down")),
            *(_time(8 * count / speed) for speed in SPEEDS.values()),
        ]
        for name, count in sent.items()
    ]
    heads = ("sent", "received", *SPEEDS)
    strong = [place for place, name in enumerate(sent) if name in facts.best]
    words = (
        "All messages of a client in the whole run, a mean over clients, packed as they would be sent. Both directions have the speed of "
        "the link; its delay, and the time to compute, do not count here."
    )
    table = Table("Time on a link, of all messages of a client", [Column("strategy", True), *map(Column, heads)], rows, strong)
    return Panel("links", title, [words], [Links(table, list(sent.values()))])


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.1 else "under 0.1 s"
