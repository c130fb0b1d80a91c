"""The next client: what one more of the same kind may expect."""

from __future__ import annotations

import numpy as np

from scarcity_ray.report.page.charts.bars import HEIGHT, spread
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Figure, Panel, Table
from scarcity_ray.report.units import signed


def next_client(facts: Facts) -> Panel:
    """The interval of the next client's gain, over the gains of those that took part."""
    best, title = facts.summary.get("best"), "The next client"
    if best is None or facts.clients is None or best["gain"]["next_low"] is None or best["gain"]["low"] is None:
        return Panel("next", title)
    gain, report = best["gain"], facts.clients
    values = facts.column("gain")
    values = values[np.isfinite(values)]
    low, high = gain["next_low"], gain["next_high"]
    tail = (
        "all of it above 0"
        if low > 0
        else "all of it below 0"
        if high < 0
        else "it may lose too"
        if gain["mean"] > 0
        else "it may gain too"
    )
    words = f"One more client of the same population gains {signed(low)} to {signed(high)} in {report.shown.short} (95 %): {tail}."
    chart = spread(values, (gain["low"], gain["high"]), (low, high), label=f"gain in {report.shown.short}")
    quantiles = [(f"{share:.0%} of clients gain less than", float(np.quantile(values, share))) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    rows = [[said, signed(value)] for said, value in quantiles]
    rows += [["the mean, from", signed(gain["low"])], ["the mean, to", signed(gain["high"])]]
    rows += [["the next client, from", signed(low)], ["the next client, to", signed(high)]]
    table = Table("Gains of clients, of their mean and of the next one", [Column("what", True), Column("gain")], rows)
    description = "How many clients have which gain. Below: the 95 % intervals of their mean and of the next client's gain."
    return Panel("next", title, [words], [Figure("next-client", "Gains, and the next one", description, chart, table, HEIGHT)])
