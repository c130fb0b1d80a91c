"""What leaves a site: each strategy's messages, and what those who see them could learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Panel, Table
from scarcity_ray.report.units import size

_OWN = "a strategy of a module of the user's own: its author knows"


def leaves(facts: Facts) -> Panel:
    """A row for each strategy of the scenario, by its class's `sends` and `reveals`."""
    settings = {one.get("name") or one.get("kind"): one for one in facts.scenario.get("strategies", [])}
    rows = []
    for name in facts.played:
        mine = settings.get(name, {})
        cls = STRATEGIES.classes.get(facts.entries[name]["kind"])
        sends, reveals = (cls.sends, cls.reveals) if cls is not None else (_OWN, _OWN)
        rows.append([name, f"{sends}{_also(mine)}", size(facts.entries[name]["uplink_bytes_per_client"]), reveals])
    columns = [
        Column("strategy", True),
        Column("what a client sends", True),
        Column("bytes sent"),
        Column("what that can reveal of its rows", True),
    ]
    words = (
        "A federation keeps rows at their sites, and sends messages made from them. No noise is added to these messages, and nothing is "
        "encrypted or added up in secret: each receiver can read them. A real federation should judge this column first."
    )
    table = Table("What each strategy sends", columns, rows, [place for place, row in enumerate(rows) if row[0] in facts.best])
    return Panel("leaves", "What leaves a site", [words], [table])


def _also(settings: Mapping[str, Any]) -> str:
    """What a client's settings add to the messages, or change in them."""
    transforms = [str(one.get("kind")) for one in settings.get("uplink") or []]
    changed = f"; changed by {', '.join(transforms)}" if transforms else ""
    insight = (
        "; and an insight of 52 bytes a round: how many rows it has, and how well a model fits them" if settings.get("insights") else ""
    )
    return f"{changed}{insight}"
