"""A first scenario for a table: who its clients are, what is predicted, what is left out, and why, in the words of its comments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.data.columns import MOST_WORDS
from scarcity_ray.data.look import Look, Seen
from scarcity_ray.data.pool import Categorical, Task
from scarcity_ray.data.remarks import identifiers, telling
from scarcity_ray.scenario.words import closest

_CLIENT = re.compile(
    r"hospital|clinic|klinik|ward$|school|schule|site|cent(er|re)|zentrum|provider|provnum|institut|inst$|^sch$|farm|shop|store|branch|"
    r"compan|firm|bank|region|county|state$|country|nation|plant$|plate$|practice|praxis|class$|client|participant|subject|patient|household|"
    r"customer|user|chick|child|rat$|batch|second$"
)
_LABEL = re.compile(
    r"outcome|died|death|dead|mortal|event|target|label|^y$|score|attain|result|response|reaction|diagnos|readmi|default|churn|surviv|"
    r"status|verstorben|gestorben|price|sales|yield|weight$|height|distance|diameter|lang$|exam$|math$|course|regist|infect|gsp|fatal$|radon$"
)
_WHEN = re.compile(r"(^|[^a-z])(year|month|week|day|hour|time|date|age)s?($|[^a-z])|jahr|monat|datum|alter")
_FEWEST, _MEDIAN = 3, 4  # clients at least, and rows of the median one
_FEW_CLASSES = 20
_RARE = 0.2  # share of the rarest class, below which accuracy says little
_SINGLE = 1 / 3  # share of clients with one class, from which no ranking within clients can be measured
_HEAVY = 10.0  # excess kurtosis, from which squared errors are those of a few rows
_VARIES = 0.2  # share of clients in which a label varies, below which it is one of the client
_MOSTLY = 0.5  # share of missing values, from which a column is left out
_NAMED = 5


class CannotPropose(ValueError):
    """The table does not tell who its clients are, or what is predicted, or is asked for what it does not have."""


@dataclass(frozen=True)
class Proposal:
    """name: of the scenario. label, client: the columns, and why. features: the inputs. left_out: the others, and why. facts: sentences on
    the clients. metric: the one that decides, None for the task's own, and why."""

    name: str
    task: Task
    label: tuple[str, str]
    client: tuple[str, str]
    features: tuple[str, ...]
    left_out: Mapping[str, str]
    facts: tuple[str, ...]
    metric: tuple[str | None, str]
    positive: str | None = None
    missing: bool = False
    say_task: bool = False
    minimum: int | None = None
    validation: bool = False
    notes: tuple[str, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        named = ("label", "client", "metric")
        pairs = {name: {"is": getattr(self, name)[0], "why": getattr(self, name)[1]} for name in named}
        return {"name": self.name, "task": self.task, **pairs, "features": self.features, "left_out": self.left_out, "facts": self.facts}


def propose(look: Look, name: str, label: str | None = None, client: str | None = None, features: Sequence[str] | None = None) -> Proposal:
    """A scenario for a table. label, client, features: columns that are not to be chosen. Raises CannotPropose."""
    for column in (label, client, *(features or ())):
        if column is not None and column.split("^")[0] not in look.columns:
            near = closest(column, list(look.columns))
            raise CannotPropose(
                f"the table has no column {column!r}{f'; did you mean {near}?' if near else ''} It has: {', '.join(look.columns)}"
            )
    client, why_client = (client, "as asked") if client else _client(look, label)
    label, why_label = (label, "as asked") if label else _label(look, client)
    if label == client:
        raise CannotPropose(f"{label!r} cannot be both the label and the client")
    owner, target = look.columns[client].codes, look.columns[label].as_label()
    rows = (owner >= 0) & (target.codes >= 0)
    task: Task = (
        "regression" if target.kind == "number" or (target.kind == "whole" and target.distinct > _FEW_CLASSES) else "classification"
    )
    if target.kind in ("date", "empty") or target.distinct < 2 or (target.kind == "text" and target.distinct > MOST_WORDS):
        raise CannotPropose(f"the label {label!r} is a {target.kind} column of {target.distinct:,} values: name another one (--label)")
    left_out = _left_out(look, label, client, owner, task) if features is None else {}
    chosen = tuple(features) if features is not None else tuple(one for one in look.columns if one not in (label, client, *left_out))
    if not chosen:
        raise CannotPropose(f"no column is left to predict {label!r} from: {'; '.join(f'{one}: {why}' for one, why in left_out.items())}")
    counts = np.bincount(owner[rows])
    counts = counts[counts > 0]
    single = _single(owner[rows], target.codes[rows]) if task == "classification" else 0
    metric, positive = _metric(target, rows, task, single / len(counts))
    inputs = [look.columns[one.split("^")[0]] for one in chosen]
    small = int((counts < _MEDIAN).sum())
    return Proposal(
        name=name,
        task=task,
        label=(label, why_label),
        client=(client, why_client),
        features=chosen,
        left_out=left_out,
        facts=_facts(look, counts, target, rows, task, single),
        metric=metric,
        positive=positive,
        missing=any(one.missing for one in (*inputs, target, look.columns[client])),
        say_task=target.kind == "whole" and (task == "regression" or target.distinct > 2),
        minimum=_MEDIAN if small else None,
        validation=float(np.median(counts)) >= 30,
        notes=(f"{small:,} clients with fewer than {_MEDIAN} rows are left out",) if small else (),
    )


def written(proposal: Proposal, source: Mapping[str, Any], command: str, about: str = "") -> str:
    """The scenario as YAML with comments. source: the first fields of data.source, as kind and path. command: how to run it. about: the
    table, in words."""
    label, client, metric = proposal.label, proposal.client, proposal.metric
    lines = [
        f"# Command   {command}",
        *(f"# {fact}" for fact in (*([about] if about else []), *proposal.facts)),
        f"name: {proposal.name}",
        f"question: {_yaml(f'Does a federation of the clients in {client[0]} pay, to predict {label[0]}?')}",
        "seed: 1",
        "repeats: 5                    # other splits of each client's rows: intervals then have the luck of training too",
        "rounds: 50",
        "data:",
        "  source:",
        *(f"    {key}: {_yaml(value)}" for key, value in source.items()),
        f"    label: {_yaml(label[0])}    # {label[1]}",
        f"    client: {_yaml(client[0])}    # {client[1]}",
    ]
    if proposal.say_task:
        lines.append(f"    task: {proposal.task}    # whole numbers could be either")
    if proposal.missing:
        lines.append("    missing: indicator        # rows that lack an input are kept, with an input that says so")
    lines.append(f"    features: [{', '.join(_yaml(one) for one in proposal.features)}]")
    lines += [f"    # left out: {_yaml(one)}: {why}" for one, why in proposal.left_out.items()]
    if proposal.minimum:
        lines.append(f"  partition: {{kind: natural, minimum: {proposal.minimum}, below: drop}}    # {'; '.join(proposal.notes)}")
    lines.append("  test_fraction: 0.3")
    if proposal.validation:
        lines.append("  validation_fraction: 0.1      # on these rows the best strategy is chosen")
    lines += [
        "model: {kind: linear}",
        "local: {epochs: 1, batch_size: 16, lr: 0.05}",
        "strategies:                   # `scarcity-ray strategies` lists all",
        "  - {kind: local_only}        # each client alone, by the same training",
        "  - {kind: fed_avg}           # one model for all",
        "  - {kind: sf_hfe}            # experts for groups of clients, and a head for each client",
    ]
    asked = [f"metric: {metric[0]}"] if metric[0] else []
    asked += [f"positive: {_yaml(proposal.positive)}"] if proposal.positive is not None else []
    lines.append(f"evaluation: {{{', '.join([*asked, 'every: 5'])}}}    # {metric[1]}")
    return "\n".join(lines) + "\n"


def _client(look: Look, label: str | None) -> tuple[str, str]:
    """The column that names the clients, and why."""
    scores = {one.name: score for one in look.columns.values() if one.name != label and (score := _as_client(one, look.rows)) is not None}
    ranked = sorted(scores, key=lambda name: -scores[name])
    if not ranked or scores[ranked[0]] < 1:
        some = f"it could be {', '.join(ranked[:_NAMED])}" if ranked else "no column has a few values with several rows each"
        raise CannotPropose(f"no column says clearly who the clients are: name it (--client COL); {some}")
    best = look.columns[ranked[0]]
    named = "its name says so" if _CLIENT.search(best.name.lower()) else "it has several rows of each"
    return best.name, f"{named}: {best.distinct:,} values{_runner_up(ranked)}"


def _as_client(one: Seen, rows: int) -> float | None:
    """How much a column looks like that of the clients; None if it cannot be."""
    if one.kind not in ("text", "whole") or one.distinct < _FEWEST or one.missing > rows / 2:
        return None
    median = float(np.median(np.bincount(one.codes[one.codes >= 0])))
    if median < _MEDIAN:
        return None
    score = 3.0 if _CLIENT.search(one.name.lower()) else 0.0
    score += 1.0 if re.search(r"(id|nr|no|num|code)$", one.name.lower()) else -3.0 if _WHEN.search(one.name.lower()) else 0.0
    return score + (1.0 if one.distinct >= 10 else -1.0 if one.distinct < 6 else 0.0) + (0.5 if one.kind == "text" else 0.0)


def _label(look: Look, client: str) -> tuple[str, str]:
    """The column that is predicted, and why."""
    last = list(look.columns)[-1]
    named = set(identifiers({name: one.values for name, one in look.columns.items()}))
    scores = {}
    for one in look.columns.values():
        if one.name == client or one.name in named or one.kind in ("date", "empty") or one.distinct < 2 or _WHEN.search(one.name.lower()):
            continue
        if _varies(one.codes, look.columns[client].codes) < _VARIES:
            continue  # it says something of the client, not of a row
        score = 3.0 if _LABEL.search(one.name.lower()) else 0.0
        score += 1.0 if one.distinct == 2 else 0.5 if one.kind == "number" else 0.0
        score -= 3.0 if one.kind == "text" and one.distinct > _FEW_CLASSES else 0.0
        scores[one.name] = score + (1.0 if one.name == last else 0.0)
    if not scores:
        raise CannotPropose("no column can be predicted: all are names, dates or constants")
    ranked = sorted(scores, key=lambda name: -scores[name])
    why = "its name says so" if _LABEL.search(ranked[0].lower()) else "it is the last column" if ranked[0] == last else "it fits best"
    return ranked[0], f"{why}{_runner_up(ranked)}"


def _runner_up(ranked: Sequence[str]) -> str:
    return f"; if that is wrong, perhaps {ranked[1]}" if len(ranked) > 1 else ""


def _left_out(look: Look, label: str, client: str, owner: NDArray[np.int64], task: Task) -> dict[str, str]:
    """The columns that are no inputs, and why."""
    others = {name: one for name, one in look.columns.items() if name not in (label, client)}
    values = {name: one.values for name, one in others.items()}
    found = {name: "it is empty" for name, one in others.items() if one.kind == "empty"}
    found |= {name: "it has one value" for name, one in others.items() if one.kind != "empty" and one.distinct == 1}
    found |= {
        name: f"{one.missing / look.rows:.0%} of its values are missing"
        for name, one in others.items()
        if one.missing > _MOSTLY * look.rows
    }
    found |= dict.fromkeys(identifiers(values), "it names rows, people or cases")
    found |= {name: "it names the client again" for name, one in others.items() if one.kind != "number" and _same(one.codes, owner)}
    target = look.columns[label].as_label()
    rows = target.codes >= 0
    y = target.codes[rows] if task == "classification" or isinstance(target.values, Categorical) else target.values[rows]
    some = {name: _rows(one, rows) for name, one in values.items() if name not in found}
    found |= {name: f"it tells the label alone ({how})" for name, how in telling(some, y, task).items()}
    found |= {
        name: f"it has {one.distinct:,} words, too many for categories"
        for name, one in others.items()
        if one.kind == "text" and one.distinct > MOST_WORDS and name not in found
    }
    found |= dict.fromkeys(look.unread, "its values are no numbers, words or dates")
    return found | {name or "the first column": "it numbers the rows" for name in look.index}


def _rows(column: Any, rows: NDArray[np.bool_]) -> Any:
    return Categorical(column.codes[rows], column.words, column.lacking) if isinstance(column, Categorical) else column[rows]


def _same(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether two columns group the rows alike."""
    pairs = np.unique(np.stack([one, other]), axis=1)
    return len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) and len(pairs[0]) > 1


def _varies(codes: NDArray[np.int64], owner: NDArray[np.int64]) -> float:
    """The share of clients whose rows have several values."""
    found, values = np.unique(np.unique(np.stack([owner, codes]), axis=1)[0], return_counts=True)
    return float((values[found >= 0] > 1).mean())


def _single(owner: NDArray[np.int64], codes: NDArray[np.int64]) -> int:
    """How many clients have rows of one class alone."""
    pairs = np.unique(np.stack([owner, codes]), axis=1)[0]
    return int((np.unique(pairs, return_counts=True)[1] == 1).sum())


def _metric(target: Seen, rows: NDArray[np.bool_], task: Task, single: float) -> tuple[tuple[str | None, str], str | None]:
    """The metric that decides, why, and of two classes the positive one where it is not the second."""
    if task == "regression":
        values = target.values[rows]  # type: ignore[index]
        off = values - values.mean()
        heavy = float((off**4).mean() / max(float((off**2).mean()) ** 2, 1e-300)) - 3 > _HEAVY
        return (
            ("mae", "a few rows have far larger values than the others, and would rule squared errors") if heavy else (None, "rmse decides")
        ), None
    shares = np.bincount(target.codes[rows]) / rows.sum()
    positive = target.word(0) if len(shares) == 2 and shares[0] < shares[1] else None
    if shares.min() >= _RARE or (len(shares) > 2 and shares.max() < 1 - _RARE):
        return (None, "accuracy decides: no class is rare"), positive
    if len(shares) > 2:
        return ("log_loss", "a class is so frequent that accuracy says little"), positive
    if single >= _SINGLE:
        return ("log_loss", "a class is rare, and many clients have one class alone, whose rows cannot be ranked"), positive
    return ("auc", f"the rarer class has {shares.min():.0%} of the rows: naming the other one always would be right in the rest"), positive


def _facts(look: Look, counts: NDArray[np.int64], target: Seen, rows: NDArray[np.bool_], task: Task, single: int) -> tuple[str, ...]:
    seen = "" if look.whole else f" (of the first {look.rows:,})"
    sizes = f"{counts.min():,} to {counts.max():,} rows, the median {np.median(counts):g}"
    found = [f"{len(counts):,} clients with {sizes}; {rows.sum():,} rows in all{seen}"]
    if task == "classification":
        shares = np.bincount(target.codes[rows]) / rows.sum()
        order = np.argsort(-shares, kind="stable")[:_NAMED]
        found.append(
            "classes: " + ", ".join(f"{target.word(int(k))} {shares[k]:.0%}" for k in order) + (", ..." if len(shares) > _NAMED else "")
        )
        if single:
            found.append(f"{single:,} clients have rows of one class alone")
    if look.dialect is not None and not look.dialect.usual:
        found.append(f"the file is written with {look.dialect}")
    return tuple(found)


def _yaml(value: Any) -> str:
    """A value as YAML reads it back."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-zÀ-ÿ_][\wÀ-ÿ./^-]*", text) and text.lower() not in (
        "yes",
        "no",
        "y",
        "n",
        "on",
        "off",
        "true",
        "false",
        "null",
    )
    return text if plain else json.dumps(value, ensure_ascii=False)
