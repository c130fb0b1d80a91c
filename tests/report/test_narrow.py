"""Every number and every name is whole on a narrow terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.rows import a_round
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scarcity_ray.core.metrics import headline
from scarcity_ray.report.clients import show_clients
from scarcity_ray.report.coefficients import coefficient_table
from scarcity_ray.report.comparison import comparison_table
from scarcity_ray.report.final_table import final_table, unseen_clients_table
from scarcity_ray.report.fitting import print_table
from scarcity_ray.report.progress import Progress
from scarcity_ray.report.scarcity_in_words import show_scarcity
from scarcity_ray.results.client_report import SCHEMA, ClientReport

WIDTHS = (40, 60, 80, 100)
LONG = "federated_averaging_of_the_models_that_clinics_train"  # longer than a third of any of these
NAMES = ["guess", "alone", "insight_exchange", "fed_avg", LONG]


def entry(place: int) -> dict[str, Any]:
    """Of a strategy; numbers occur once in a table."""
    found = {"kind": "fed_avg", "status": "diverged" if place == 3 else "finished", "still_falling": place == 2, "rounds": 1000 + place}
    found |= {"rmse": 314150 + place, "rmse_pooled": 271820 + place, "rmse_worst_decile": 577210 + place, "seconds": 14140.0 + place}
    found |= {
        "bytes_per_client": 1024.0 * (16180 + place),
        "std": {"rmse": 1203.0 + place, "rmse_worst_decile": 4206.0 + place},
        "seeds": {"1": {}},
    }
    gain = {"clients": 2410, "surely_better": 1101 + place, "surely_worse": 1201 + place}
    return found | {"gain": gain, "strangers": dict.fromkeys(("router", "oracle", "global", "average"), 0.1234 + place / 100)}


SUMMARY = {
    "question": "which?",
    "scenario": "x",
    "task": "regression",
    "metric": "rmse",
    "best": {"strategies": ["fed_avg"], "conclusion": {"verdict": "pays"}},
}
SUMMARY |= {"strategies": {name: entry(place) for place, name in enumerate(NAMES)}, "clients": 2410}


def compared() -> Table:
    entries = {}
    for place, name in enumerate(NAMES):
        difference = {"mean": -1.125 - place / 100, "low": -2.25 - place / 100, "high": 0.5 + place / 100, "p_holm": 0.017 + place / 100}
        mine = {"mean": 314150 + place, "worst_tenth": 577210 + place, "hours": 3.0 + place, "difference": difference}
        entries[f"monday/{name}"] = entry(place) | mine
    runs = {"monday": {"clients": 2410, "seeds": [1, 2]}}
    found = {"task": "regression", "metric": "rmse", "runs": runs, "clients": 2410, "seeds": [1, 2], "reference": "", "strategies": entries}
    return comparison_table(found)


def fitted() -> Table:
    rows = [
        {"name": name, "class": "transferred", "estimate": -123456.0 - place, "std_error": 1234.0 + place, "p_value": 0.017 + place / 100}
        | {"lower": -234567.0 - place, "upper": -111111.0 - place, "statistic": -9.125 - place}
        for place, name in enumerate(["intercept", "age", "systolic_blood_pressure_at_admission"])
    ]
    return coefficient_table("fed_glm", {"coefficients": rows, "family": "multinomial", "test": "z"})


TABLES = {
    "final": (lambda: final_table(SUMMARY), 1),
    "unseen clients": (lambda: unseen_clients_table(SUMMARY), 1),
    "comparison": (compared, 1),
    "coefficients": (fitted, 2),
}


def printed(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width), file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", TABLES)
def test_tables_have_every_cell(which: str, width: int) -> None:
    make, names = TABLES[which]
    console, file = printed(width)
    table = make()
    print_table(console, table, names)
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for column in table.columns[names:]:
        for cell in map(str, column.cells):
            assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", text), f"{cell!r} is not whole in\n{text}"
        head = str(column.header).split("\n")
        assert all(word in text for word in head)
    for column in table.columns[:names]:
        for cell in column.cells:
            for word in (cell.plain if isinstance(cell, Text) else cell).split():
                # A longer word may take several lines, and nothing of it is left out.
                parts = re.escape(word) if len(word) <= 20 else r"(?:[^\n]*\n\s*)?".join(map(re.escape, word))
                assert re.search(parts, text), f"{word!r} is not in\n{text}"


def test_what_fits_stays_one_table() -> None:
    console, file = printed(120)
    print_table(console, fitted(), 2)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3 + 1 + 3  # title, head of two lines, line, rows
    widest = max(map(len, map(str.rstrip, lines)))
    for width, more in ((widest, 0), (widest - 1, 1)):  # a letter of the longest name takes a line of its own
        console, file = printed(width)
        print_table(console, fitted(), 2)
        assert len(file.getvalue().splitlines()) == len(lines) + more


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_of_clients_has_names_gains_and_conclusions(width: int) -> None:
    names = ["north", LONG, "12"]
    rows = [
        {
            "strategy": LONG,
            "client": name,
            "client_id": place,
            "num_train": 12345 + place,
            "num_test": 2345,
            "alone": 0.5,
            "federated": 0.75,
        }
        | {"gain": 0.111 + place / 100, "gain_low": -0.222 - place / 100, "gain_high": 0.333 + place / 100, "sure": "cannot tell"}
        | {"seed": 7 + place % 2, "uplink_bytes": 1e9, "downlink_bytes": 1e9 + place}
        for place, name in enumerate(names)
    ]
    report = ClientReport(pa.Table.from_pylist(rows, SCHEMA), LONG, headline("classification"), None, 1)
    console, file = printed(width)
    show_clients(console, report, {"best": None, "strategies": {LONG: {"kind": "fed_avg", "status": "finished"}}})
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in rows:
        assert f"{row['gain']:+.3f} {row['gain_low']:+.3f} to {row['gain_high']:+.3f}" in " ".join(text.split())
    assert len(re.findall(r"cannot tell *\n", text)) == len(rows)
    left_out = " ".join(text.split()).partition("no room for ")[2].partition(", which --csv")[0].split(", ")
    assert ("KB sent" in left_out) == ("976,562" not in text)


@pytest.mark.parametrize("width", [60, 80])
def test_the_report_on_scarcity_has_every_number(width: int) -> None:
    def cost(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.011, "high": mean + 0.012, "clients": 9, "seeds": 3}

    parts = ["availability", "deadline"]
    costs = {"alone": {part: cost(0.1234) for part in parts}, "beside_the_others": {part: cost(0.4567) for part in parts}}
    costs |= {"together": cost(0.1), "interaction": cost(-0.01), "worth_of_more": {"deadline": cost(0.03)}}
    spent = {"value": 0.9876, "hours": 200.5, "joules": 123456.0, "bytes": 2048.0, "status": "finished"}
    run = {"best": ["insight_exchange", LONG], "verdict": "pays", "strategies": {"insight_exchange": spent}}
    found = {
        "metric": "accuracy",
        "task": "classification",
        "scarcities": parts,
        "budgets": ["deadline"],
        "costs": {"insight_exchange": costs},
    }
    found |= {"runs": dict.fromkeys(("free", "all", "all_but_availability"), run), "most": None}
    console, file = printed(width)
    show_scarcity(console, found, Path("RUN"))
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines()[:-1])) <= width
    for number, often in (("12.3 (11.2 to 13.5)", 2), ("45.7 (44.6 to 46.9)", 2), ("10.0 (8.9 to 11.2)", 1), ("3.0 (1.9 to 4.2)", 1)):
        assert text.count(number) == often
    for number in ("0.988", "200 h 30 min", "123,456 J", "2.0 KB"):
        assert text.count(number) == 3
    assert "insight_exchange" in text


@pytest.mark.parametrize(
    ("title", "width", "left_out"),
    [
        ("fed_avg", 80, []),
        ("insight_exchange", 80, []),
        ("fed_avg", 60, ["1,480/s", "1.9 GB"]),
        ("insight_exchange", 60, ["1,480/s", "1.9 GB", "loss 0.500"]),
        (LONG, 60, ["1,480/s", "1.9 GB", "loss 0.500"]),
    ],
)
def test_the_live_display_leaves_facts_out_and_cuts_none(title: str, width: int, left_out: list[str]) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with Progress(True, console) as progress:
        progress.begin(title, 7, 12000, headline("classification"))
        for number in (9998, 9999):
            row = a_round(number) | {"test_loss": 0.5, "test_accuracy": 0.75, "test_accuracy_worst_decile": 0.25}
            progress.update(row | {"uplink_bytes": 10**9, "downlink_bytes": 0}, 1480.0)
        assert progress._bars is not None
        lines = console.render_lines(progress._bars.get_renderable(), console.options)
    shown = ["".join(segment.text for segment in line) for line in lines]
    assert "…" not in "".join(shown)
    facts = ["9999/12000", "loss 0.500", "accuracy 0.750 (0.250)", "1.9 GB", "1,480/s"]
    assert [fact for fact in facts if fact not in shown[0]] == sorted(left_out, key=facts.index)
    names = "".join(line[: width - len("  ".join(facts[::2][:2])) - 1] for line in shown) if len(shown) > 1 else shown[0]
    assert title in names.replace(" ", "")
