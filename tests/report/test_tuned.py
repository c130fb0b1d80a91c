"""The table at the end of a search, and what is said below it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scarcity_ray.report.tuned import show_tuned, tuned_in_words


def entry(**changes: Any) -> dict[str, Any]:
    plain = {
        "parameters": {"local.lr": 0.12345},
        "validation": 0.9,
        "test": 0.88,
        "std": 0.01,
        "optimism": 0.02,
        "edges": [],
        "trials": 8,
        "updates": 4000,
        "diverged": 1,
        "too_large": 0,
        "impossible": 0,
    }
    return plain | changes


def answer(**strategies: dict[str, Any]) -> dict[str, Any]:
    fixed = {"metric": "accuracy", "folds": 3, "bytes": 150_000, "repeats": 2, "fresh": "deals", "best": ["fed_avg"], "comparisons": []}
    return {**fixed, "strategies": strategies}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_table_fits_and_names_models_by_their_kind(width: int) -> None:
    model = {"kind": "mlp", "hidden": [32]}
    found = answer(fed_avg=entry(), fed_prox=entry(parameters={"strategies.fed_prox.model": model, "strategies.fed_prox.mu": 0.1}))
    text = io.StringIO()
    show_tuned(Console(file=text, width=width), found, Path("runs/x"))
    *lines, command = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert command.startswith("scarcity-ray run runs/x/best.yaml ")  # not wrapped, so that it can be copied
    words = " ".join(text.getvalue().split())
    assert "model mlp (hidden [32])" in words
    assert "lr 0.123" in words
    assert "fresh seeds, which deal the same rows again, so that some of them served in the search; optimism" in words
    assert "as many rounds as 146 KB a client allow" in words


def test_what_did_not_finish_is_told() -> None:
    found = answer(
        fed_avg=entry(edges=["local.lr high"]), fed_prox=entry(impossible=2, too_large=3), ditto=entry(parameters=None, diverged=8)
    )
    said = "\n".join(tuned_in_words(found))
    assert "fed_avg: the best setting lies at an edge of the space (local.lr high)" in said
    assert "fed_prox: 3 trials did not fit into the bytes that are allowed." in said
    assert "fed_prox: 2 trials had values that the strategy does not take together." in said
    assert "ditto: no trial finished, so it has no final test." in said
