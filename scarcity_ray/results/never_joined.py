"""Who joined no round where something is scarce: how many, why, which rows, groups and classes, and what the others have beyond them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import Shown
from scarcity_ray.inference.unpaired import unpaired
from scarcity_ray.scarcity.taking_part import TakingPart

NEVER_JOINED, TOP_WORK = "never_joined", "top_30_work_share"
"""The keys of summary.json."""

_TOP = 0.3
"""The share of clients of which FLASH (Yang et al., WWW 2021) says that they do 86 % of the computation."""

Floats = NDArray[np.float64]


def describe_seed(part: TakingPart, federation: Federation, group: NDArray[np.int64] | None) -> dict[str, Any]:
    """What summary.json says of a strategy under one seed, without the metric, in plain values.

    never_joined: clients, how many joined no round (where each message is sent once: have not sent the one that is learned from), and
    clients_share, of all; rows, their training rows, and rows_share, of all; by: how many clients for each reason (scarcity.taking_part),
    the most frequent first; groups: of each group the share of its clients; classes: of each class the share of its training rows that
    are theirs, by the class's name. None of these two where there is one group, and for a regression. top_30_work_share: the share of the
    operations in rounds joined of the 30 % of the clients that did most, between whole clients by straight lines (Lorenz's curve); None
    where nobody joined.

    group: `[clients]`, None where there are none.
    """
    train, never = federation.train, ~part.joined
    why, how_often = np.unique(part.why[never].astype(str), return_counts=True)
    order = np.argsort(-how_often, kind="stable")
    found: dict[str, Any] = {
        "clients": int(never.sum()),
        "clients_share": _share(never.sum(), len(never)),
        "rows": int(train.counts[never].sum()),
        "rows_share": _share(train.counts[never].sum(), train.counts.sum()),
        "by": dict(zip(why[order].tolist(), how_often[order].tolist(), strict=True)),
    }
    if group is not None:
        found["groups"] = {str(one): _share((never & (group == one)).sum(), (group == one).sum()) for one in np.unique(group).tolist()}
    if federation.task == "classification":
        theirs = np.repeat(never, train.counts)
        of_never, of_all = (np.bincount(y, minlength=federation.outputs) for y in (train.y[theirs], train.y))
        names = None if federation.encoding is None else federation.encoding.classes
        words = [str(one) for one in names or range(federation.outputs)]
        found["classes"] = {word: _share(one, all_) for word, one, all_ in zip(words, of_never, of_all, strict=True)}
    return {NEVER_JOINED: found, TOP_WORK: top_share(part.work)}


def top_share(work: Floats, top: float = _TOP) -> float | None:
    """The share of all work of the clients that did most. work: `[clients]`. top: their share of the clients. None without any work."""
    if not work.sum():
        return None
    reached = np.concatenate([[0.0], np.cumsum(np.sort(work)[::-1])]) / work.sum()
    return float(np.interp(top * len(work), np.arange(len(reached)), reached))


def describe_metric(
    seeds: Iterable[Mapping[str, NDArray[Any]]], shown: Shown, keeps_clients: bool, bound: float
) -> dict[str, float | None] | None:
    """The metric that decides, as it is shown, of the tested clients that never joined, and of those that joined: never and joined, the
    means over clients; difference, joined less never; low and high, its 90 % interval, None where one of the two kinds is one client
    (inference.unpaired). None where no seed has both.

    seeds: of each seed `client_id`, `value` (of the metric) and `never` (whether it joined no round), `[k]`. keeps_clients: whether a
    client has the same rows under all of them. bound: no difference is larger.
    """
    parts = list(seeds)
    ids = np.unique(np.concatenate([part["client_id"] for part in parts]))
    values, never = np.full((len(parts), len(ids)), np.nan), np.zeros((len(parts), len(ids)), dtype=np.bool_)
    for place, part in enumerate(parts):
        there = np.searchsorted(ids, part["client_id"])
        values[place, there], never[place, there] = part["value"], part["never"]
    found = unpaired(values, ~never, keep_rows=keeps_clients, root=shown.root)
    if math.isnan(found.difference):
        return None
    ends = {name: float(np.clip(getattr(found, name), -bound, bound)) for name in ("low", "high")}
    plain = {"never": found.second, "joined": found.first, "difference": found.difference, **ends}
    return {name: None if math.isnan(value) else value for name, value in plain.items()}


def over_seeds(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same over seeds, from what `describe_seed` says of each under `never_joined`: means over them, of seeds that have a group or
    class."""
    first = entries[0]
    mean: dict[str, Any] = {name: _mean([one[name] for one in entries]) for name in ("clients", "clients_share", "rows", "rows_share")}
    by = {why: sum(one["by"].get(why, 0) for one in entries) / len(entries) for one in entries for why in one["by"]}
    mean["by"] = dict(sorted(by.items(), key=lambda item: -item[1]))
    for part in ("groups", "classes"):
        if part in first:
            names = dict.fromkeys(name for one in entries for name in one[part])
            mean[part] = {name: _mean([one[part].get(name) for one in entries]) for name in names}
    return mean


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None
