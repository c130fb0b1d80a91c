"""What the report on scarcity says in a sentence, in tables and in a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scarcity_ray.report.scarcity_in_words import in_words, show_scarcity
from scarcity_ray.report.scarcity_map import draw_scarcity


def cost(mean: float | None, half: float = 0.02) -> dict[str, Any]:
    ends = {"low": None, "high": None} if mean is None else {"low": mean - half, "high": mean + half}
    return {"mean": mean, **ends, "clients": 9, "seeds": 3}


def found(best: list[str], most: float, verdict: str = "pays", metric: str = "accuracy", as_much: tuple[str, ...] = ()) -> dict[str, Any]:
    parts = ["network", "availability", "dropout", "deadline"]
    costs = {
        "alone": {part: cost(most if part == "network" else 0.0) for part in parts},
        "beside_the_others": {part: cost(0.02 if part != "dropout" else None) for part in parts},
        "together": cost(0.1),
        "interaction": cost(-0.01),
        "worth_of_more": {"deadline": cost(0.03)},
    }
    rows = ["free", "all", *(f"{way}_{part}" for way in ("only", "all_but") for part in parts), "more_deadline"]
    spent = {"value": 0.9, "hours": 2.0, "joules": None, "bytes": 2048.0, "status": "finished"}
    return {
        "metric": metric,
        "task": "regression" if metric == "rmse" else "classification",
        "scarcities": parts,
        "budgets": ["deadline"],
        "most": {"strategy": "fed_avg", "scarcity": "network", **cost(most), "of": 8, "as_much": list(as_much)},
        "runs": {row: {"run": row, "best": best, "verdict": verdict, "strategies": {"fed_avg": spent, "sf_hfe": spent}} for row in rows},
        "costs": {"fed_avg": costs, "sf_hfe": costs},
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            found(["sf_hfe"], 0.061),
            "Of the four scarcities the links cost fed_avg most: 6.1 points of accuracy alone (4.1 to 8.1), 2.0 beside the others; "
            "under all of them sf_hfe is best.",
        ),
        (
            found(["sf_hfe", "fed_avg"], 0.061, as_much=("deadline",)),
            "Of the four scarcities the links, or perhaps the deadline, cost fed_avg most: 6.1 points of accuracy alone (4.1 to 8.1), "
            "2.0 beside the others; under all of them sf_hfe or fed_avg is best, which of them cannot be told.",
        ),
        (
            found([], 0.01, "nothing was learned"),
            "None of the four scarcities surely costs a strategy anything alone: the links cost fed_avg most, 1.0 points of accuracy alone "
            "(-1.0 to 3.0), 2.0 beside the others; under all of them no strategy is surely better than a guess.",
        ),
        (
            found(["sf_hfe"], 0.01) | {"scarcities": ["network", "deadline"]},
            "Neither of the two scarcities surely costs a strategy anything alone: the links cost fed_avg most, 1.0 points of accuracy "
            "alone (-1.0 to 3.0), 2.0 beside the others; under all of them sf_hfe is best.",
        ),
        (
            found(["fed_avg"], 0.061, "does not pay", "rmse"),
            "Of the four scarcities the links cost fed_avg most: 0.061 in RMSE alone (0.041 to 0.081), 0.02 beside the others; under all "
            "of them fed_avg is best, and federating does not pay.",
        ),
    ],
)
def test_the_sentence(content: dict[str, Any], sentence: str) -> None:
    assert in_words(content) == sentence


def test_tables_and_the_picture_have_every_number(tmp_path: Path) -> None:
    content, console = found(["sf_hfe"], 0.061), Console(file=io.StringIO(), width=80)
    draw_scarcity(content, tmp_path / "scarcity.png")
    show_scarcity(console, content, tmp_path)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "6.1 (4.1 to 8.1)",
        "all together",
        "10.0 (8.0 to 12.0)",
        "-1.0 (-3.0 to 1.0)",
        "3.0 (1.0 to 5.0)",
        "2 h 00 min",
        "2.0 KB",
    ):
        assert words in text
    assert "scarcity.png" in text
    assert (tmp_path / "scarcity.png").read_bytes().startswith(b"\x89PNG")
