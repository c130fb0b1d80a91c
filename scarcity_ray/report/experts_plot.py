"""experts.png: which clients belong to which expert, how sure that is, how good its models are, and how well calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scarcity_ray.core.metrics import Shown, headline
from scarcity_ray.report.curves import COLOURS, tidy
from scarcity_ray.results.results import Results

_MOST_GROUPS = 40  # columns of the first panel; the smaller groups share the last one


def draw_experts(results: Results, path: Path) -> bool:
    """Draws every strategy that has experts, a line of panels each, into a PNG at `path`; False where none has."""
    summary, clients = results.summary, results.frame("clients")
    clients = clients[clients["expert_id"].notna() & (clients["seed"] == clients["seed"].min())]
    names = [name for name in summary["strategies"] if (clients["strategy"] == name).any()]
    if not names:
        return False
    shown = headline(summary["task"], summary.get("metric"))
    calibrations = {name: _calibration(summary["strategies"][name]) for name in names}
    panels = 4 if any(calibrations.values()) else 3
    figure = Figure(figsize=(5 * panels, 4.6 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_2d(figure.subplots(len(names), panels)), names, strict=True):
        rows = clients[clients["strategy"] == name]
        rows = rows[rows["round"] == rows["round"].max()]
        rows = rows.assign(expert_id=rows["expert_id"].astype(int), good=shown.shape(rows[shown.metric.column]))
        _who(axes[0], rows, name)
        _how_sure(axes[1], rows)
        _how_good(axes[2], rows, shown)
        if panels == 4:
            _how_calibrated(axes[3], calibrations[name])
    figure.suptitle(f"{summary['question'] or summary['scenario']}: the experts", fontsize=13, x=0.01, ha="left")
    figure.savefig(path)
    return True


def _who(axes: Axes, rows: Any, name: str) -> None:
    """Clients of each expert by hidden group: a count in each field."""
    sizes = rows["group"].value_counts()
    shown = sorted(sizes.index[:_MOST_GROUPS])
    group = rows["group"].where(rows["group"].isin(shown), -1)
    columns = [*shown, -1] if (group == -1).any() else shown
    experts = sorted(rows["expert_id"].unique())
    counts = np.array([[((rows["expert_id"] == k) & (group == g)).sum() for g in columns] for k in experts])
    axes.imshow(counts, cmap="Blues", aspect="auto", vmin=0)
    if counts.size <= 120:
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, f"{count}", ha="center", va="center", color="white" if count > counts.max() / 2 else "0.2")
    axes.set_yticks(range(len(experts)), [f"expert {k}: {(rows['expert_id'] == k).sum():,}" for k in experts])
    step = max(1, len(columns) // 12)
    axes.set_xticks(range(0, len(columns), step), ["other" if g == -1 else str(g) for g in columns[::step]])
    axes.set(title=f"{name}: who belongs where (clients)", xlabel="hidden group" if len(columns) > 1 else "no hidden groups")


def _how_sure(axes: Axes, rows: Any) -> None:
    if rows["confidence"].isna().all():
        axes.text(0.5, 0.5, "Clients chose by the lowest loss:\nno confidence is kept.", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for k, clients in rows.groupby("expert_id"):
        sure = np.sort(clients["confidence"].to_numpy())
        x = 100 * (np.arange(len(sure)) + 0.5) / len(sure)
        axes.plot(x, sure, color=COLOURS[int(k) % len(COLOURS)], lw=2, marker="o" if len(sure) < 40 else "", ms=4, label=f"expert {k}")
    least = 1 / rows["expert_id"].nunique()
    axes.set(title="How sure", xlabel="% of its clients, from the least sure", ylabel="responsibility of its expert", xlim=(0, 100))
    axes.set_ylim(min(least, rows["confidence"].min()) - 0.03, 1.03)
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)


def _how_good(axes: Axes, rows: Any, shown: Shown) -> None:
    for place, (k, clients) in enumerate(rows.groupby("expert_id")):
        values = np.sort(clients["good"].dropna().to_numpy())
        if not len(values):
            continue
        colour = COLOURS[int(k) % len(COLOURS)]
        beside = 0.28 * np.sin(np.arange(len(values)) * 2.4)  # so that equal values do not hide each other
        axes.plot(place + beside, values, "o", color=colour, ms=4, alpha=0.45, mew=0)
        axes.plot([place - 0.35, place + 0.35], [values.mean()] * 2, color=colour, lw=3)
        axes.annotate(f"{values.mean():.3f}", (place + 0.37, values.mean()), color=colour, va="center", fontsize=10, fontweight="bold")
    experts = sorted(rows["expert_id"].unique())
    axes.set_xticks(range(len(experts)), [f"expert {k}" for k in experts])
    axes.set_xlim(-0.6, len(experts) - 0.25)
    axes.set(title="How good: each client, and the mean", ylabel=f"test {shown.long} of a client")
    tidy(axes)


def _calibration(entry: dict[str, Any]) -> dict[str, Any] | None:
    """What summary.json says of a strategy's class probabilities, of the first seed."""
    first = next(iter(entry.get("seeds", {"": entry}).values()))
    calibration: dict[str, Any] | None = first.get("calibration")
    return calibration


def _how_calibrated(axes: Axes, calibration: dict[str, Any] | None) -> None:
    if calibration is None:
        axes.set_axis_off()
        return
    rows = np.array(calibration["rows"])
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    axes.scatter(calibration["confidence"], calibration["accuracy"], s=20 + 400 * rows / rows.sum(), color=COLOURS[0], alpha=0.7, lw=0)
    axes.set(title=f"Do probabilities hold? Off by {calibration['error']:.3f}", xlabel="greatest probability", ylabel="share that is right")
    axes.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.05))
    tidy(axes)
