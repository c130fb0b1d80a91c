"""Federations as rows: what each client's test rows say of several strategies, and the whole way from there to a conclusion."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scarcity_ray.core.randomness import stream
from scarcity_ray.inference.conclusion import Conclusion, Verdict, conclude
from scarcity_ray.inference.mean_gain import mean_gain
from scarcity_ray.inference.paired import gain_variances, over_seeds, paired_means
from scarcity_ray.inference.shrinkage import Shrunk, shrink
from scarcity_ray.inference.winner import cross_fitted, halves, strategy_of_rows

Floats = np.ndarray[Any, np.dtype[np.float64]]

FEATURES = 12
USED = 4
"""Features that one strategy uses, so that strategies differ."""
FRESH = 200
"""Further rows of each client, which tell its true gain."""


class Rows(NamedTuple):
    """What is lost on each test row, lower is better: alone, guess `[seeds, clients, rows]`, strategies
    `[strategies, seeds, clients, rows]`. row: which row of its client it is `[seeds, clients, rows]`. true: each client's expected
    gain with the trained models `[strategies, clients]`."""

    alone: Floats
    guess: Floats
    strategies: Floats
    row: Any
    true: Floats


class Judged(NamedTuple):
    """above: whether the interval of the mean gain over alone lies above 0. true: clients' expected gains of the choice."""

    conclusion: Conclusion
    shrunk: Shrunk
    above: bool
    true: Floats

    @property
    def pays(self) -> bool:
        """Whether the verdict says so, for all or on average."""
        return self.conclusion.verdict in (Verdict.PAYS, Verdict.HARMS_SOME)


def judge(rows: Rows, seed: int) -> Judged:
    """From test rows to the conclusion."""
    seeds, clients, each = rows.alone.shape
    client = np.broadcast_to(np.arange(clients)[:, None], (seeds, clients, each))
    first = halves(seed, client.ravel(), rows.row.ravel()).reshape(client.shape)
    better = rows.alone - rows.strategies
    counts = first.sum(-1), (~first).sum(-1)
    parts = [
        np.divide(
            (better * half).sum(-1), count, out=np.full(better.shape[:-1], np.nan), where=np.broadcast_to(count > 0, better.shape[:-1])
        )
        for half, count in zip((first, ~first), counts, strict=True)
    ]
    winner = cross_fitted(*parts, counts)
    by_client = mean_gain(winner.gains, keep_rows=True, widen=winner.widen)
    over_guess = [mean_gain((rows.guess - one).mean(-1), keep_rows=True) for one in rows.strategies]
    chosen = np.take_along_axis(rows.strategies, strategy_of_rows(first, winner)[None], axis=0)[0]
    who = client[0].ravel()
    one_seed = [paired_means(a.ravel(), b.ravel(), who, clients, False) for a, b in zip(rows.alone, chosen, strict=True)]
    paired = over_seeds(one_seed, [who] * seeds)
    variances = gain_variances(paired, np.tile(who, seeds), rows.row.ravel())
    shrunk = shrink(paired.gain, np.sqrt(variances))
    noise = float(variances.sum()) / clients**2
    conclusion = conclude(by_client, by_client, over_guess, shrunk.sure, row_noise=noise, test_rows=each)
    return Judged(conclusion, shrunk, by_client.low > 0, (rows.true[winner.first] + rows.true[winner.second]) / 2)


def nobody_gains(kind: str, strategies: int, seeds: int, seed: int, clients: int = 30, rows: int = 24) -> Rows:
    """One federation; half of the rows are for testing, split again in each seed.

    kind: "coin flips" and "pure noise" (35 % yes) have labels that do not depend on the inputs, "unrelated coefficients" a
    linear model of its own for each client, with squared errors. Alone is the better, by leaving one training row
    out, of the client's own majority or mean and its own ridge; each strategy a ridge on all training rows and some features.
    """
    draw, total = stream(seed, kind, strategies, seeds), rows + FRESH
    x, signs = draw.standard_normal((clients, total, FEATURES)), kind != "unrelated coefficients"
    if signs:
        y = np.where(draw.random((clients, total)) < (0.5 if kind == "coin flips" else 0.35), 1.0, -1.0)
    else:
        y = np.einsum("cnp,cp->cn", x, draw.standard_normal((clients, FEATURES)) / np.sqrt(FEATURES)) + draw.standard_normal(
            (clients, total)
        )
    used = [draw.permutation(FEATURES)[:USED] for _ in range(strategies)]
    order = draw.random((seeds, clients, rows)).argsort(-1)
    fresh = np.broadcast_to(np.arange(rows, total), (clients, FRESH))
    half = rows // 2
    split = [_one_split(x, y, signs, used, one[:, :half], np.concatenate([one[:, half:], fresh], axis=1)) for one in order]
    alone, guess, shared = (np.stack(part) for part in zip(*split, strict=True))
    shared = np.swapaxes(shared, 0, 1)
    tested = slice(0, rows - half)
    true = (alone[..., rows - half :] - shared[..., rows - half :]).mean((1, 3))
    return Rows(alone[..., tested], guess[..., tested], shared[..., tested], order[..., half:], true)


def _loss(predicted: Floats, labels: Floats, signs: bool) -> Floats:
    return np.where(np.sign(predicted) == labels, 0.0, 1.0) if signs else (predicted - labels) ** 2


def _one_split(x: Floats, y: Floats, signs: bool, used: list[Any], train: Any, test: Any) -> tuple[Floats, Floats, Floats]:
    inputs, labels = np.take_along_axis(x, train[..., None], 1), np.take_along_axis(y, train, 1)
    new, truth = np.take_along_axis(x, test[..., None], 1), np.take_along_axis(y, test, 1)
    rows = labels.shape[1]
    # own ridge with a constant, and what it predicts for each training row without it
    held = np.concatenate([inputs, np.ones((*labels.shape, 1))], axis=2)
    weights = np.linalg.solve(np.swapaxes(held, 1, 2) @ held + np.eye(FEATURES + 1) * 3, np.swapaxes(held, 1, 2))
    fitted = np.einsum("cpn,cn->cp", weights, labels)
    leverage = np.einsum("cnp,cpn->cn", held, weights)
    without = labels - (labels - np.einsum("cnp,cp->cn", held, fitted)) / (1 - leverage)
    mean = labels.mean(1, keepdims=True)
    mean_without = (mean * rows - labels) / (rows - 1)
    ridge_wins = _loss(without, labels, signs).mean(1) < _loss(mean_without, labels, signs).mean(1)
    own = np.einsum("cnp,cp->cn", new, fitted[:, :-1]) + fitted[:, -1:]
    alone = np.where(ridge_wins[:, None], own, mean + np.zeros_like(own))
    shared = []
    for features in used:
        a, b = held[..., [*features, FEATURES]].reshape(-1, USED + 1), labels.ravel()
        fit = np.linalg.solve(a.T @ a + np.eye(USED + 1), a.T @ b)
        shared.append(_loss(new[..., features] @ fit[:-1] + fit[-1], truth, signs))
    return _loss(alone, truth, signs), _loss(np.full_like(truth, labels.mean()), truth, signs), np.stack(shared)


def given_gains(gains: Floats, each: int, seed: int, accuracy_alone: float = 0.7) -> Rows:
    """One seed of one strategy, in which client c's chance to be right is gains[c] above accuracy_alone, and guess is right in
    half of the rows. Half of the rows have one draw for both, as models mostly err on the same rows."""
    draw = stream(seed, "given gains", each)
    shape = (1, len(gains), each)
    one, other = draw.random((2, *shape))
    other = np.where(draw.random(shape) < 0.5, one, other)
    alone = np.where(one < accuracy_alone, 0.0, 1.0)
    federated = np.where(other < np.clip(accuracy_alone + gains, 0, 1)[:, None], 0.0, 1.0)
    guess = np.where(draw.random(shape) < 0.5, 0.0, 1.0)
    return Rows(alone, guess, federated[None], np.broadcast_to(np.arange(each), shape), gains[None])


def clients_differ(strategies: int, seed: int, clients: int = 30, rows: int = 24) -> Rows:
    """One seed: each strategy gains for some clients what it costs others, 0 on average over the population."""
    draw = stream(seed, "clients differ", strategies)
    gains = 0.5 * draw.standard_normal((strategies, 1, clients, 1))
    alone = draw.standard_normal((1, clients, rows))
    losses = alone - gains + draw.standard_normal((strategies, 1, clients, rows))
    return Rows(alone, alone + 5, losses, np.broadcast_to(np.arange(rows), alone.shape), gains[:, 0, :, 0])
