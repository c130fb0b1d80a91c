"""Predicting: by every strategy's model, for clients that join, and into files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from helpers.hospitals import hospital_rows
from helpers.scenarios import scenario
from typer.testing import CliRunner

from scarcity_ray import Results, simulate
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.data.table import TableError
from scarcity_ray.results.results import RunError
from scarcity_ray.run import app
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.serving.output import write_predictions
from scarcity_ray.serving.predict import OptionError, UnknownClient, predict
from scarcity_ray.training.local import Local

IDENTITY = {"kind": "identity"}
PERSONAL = {"local_only", "insight_exchange", "prototypes", "ifca", "hier_fed_avg"}
"""No model for rows of unknown origin."""


def table_run(table: pa.Table, folder: Path, strategies: list[dict[str, Any]] | None = None) -> Results:
    pq.write_table(table, folder / "rows.parquet")
    source = {"kind": "table", "path": str(folder / "rows.parquet"), "label": "days", "client": "site"}
    strategies = strategies or [{"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}]
    return simulate(scenario(rounds=1, data={"source": source}, model={"kind": "linear"}, strategies=strategies), out=folder / "run")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Results:
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "representation": IDENTITY, "experts": 1}]
    return table_run(hospital_rows(), tmp_path_factory.mktemp("hospitals"), strategies)


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[pa.Table]]:
    """A run of all registered strategies, which writes down its answers to test rows; and each client's test rows."""
    folder = tmp_path_factory.mktemp("everyone")
    strategies: list[dict[str, Any]] = [
        {"kind": kind} | ({"representation": IDENTITY} if "representation" in cls.model_fields else {})
        for kind, cls in STRATEGIES.classes.items()
    ]
    content = scenario(
        rounds=1,
        data={"source": {"kind": "blobs", "shape": [4], "classes": 3, "separation": 2.0}, "clients": 4},
        evaluation={"predictions": True},
        strategies=strategies,
        scarcity={},  # for those that need a clock
    )
    test = prepare(parse(content), folder).federation.test
    tables = [pa.table({f"x{i}": column for i, column in enumerate(test.x[test.rows(client)].T)}) for client in range(4)]
    return simulate(content, out=folder / "run"), tables


@pytest.mark.parametrize("kind", STRATEGIES.classes)
def test_every_strategy_predicts_as_it_answered_its_clients_test_rows(kind: str, everyone: tuple[Results, list[pa.Table]]) -> None:
    results, tables = everyone
    assert kind in results.models
    answers = results.table("predictions", filters=[("strategy", "=", kind)])
    own_models = "client_id" in results.tensors(kind) and not results.is_ensemble(kind)
    steps = STRATEGIES.classes[kind]().adaptation(Local(), np.ones(1, dtype=np.int64))
    adapted = steps is not None and steps.any() and not own_models
    for client in (0, 3):
        found = predict(results, tables[client], model=kind, client=client)
        shares = np.stack([found[f"probability_{label}"].to_numpy() for label in range(3)], axis=1)
        own = answers.filter(pc.equal(answers["client_id"], client)).sort_by("row")
        told = np.stack([own[f"p_{label}"].to_numpy() for label in range(3)], axis=1)
        assert np.allclose(shares, told, atol=1e-5) == (not adapted)
        np.testing.assert_allclose(shares.sum(1), 1)
        assert (found["prediction"].to_numpy() == shares.argmax(1)).all()
        assert (b"without the local steps" in found.schema.metadata[b"answered_by"]) == adapted
    if own_models or kind in PERSONAL:
        with pytest.raises(RunError, match="the models of 4 clients; name one of them as client"):
            predict(results, tables[0], model=kind)
    else:
        assert predict(results, tables[0], model=kind).num_rows == tables[0].num_rows
    with pytest.raises(UnknownClient, match=r"client 44 did not take part .* the nearest name is"):
        predict(results, tables[0], model=kind, client=44)
    if kind != "sf_hfe":
        with pytest.raises(OptionError, match="is no ensemble, and makes no head"):
            predict(results, tables[0], model=kind, client=44, labelled=tables[1])


def test_a_run_without_an_ensemble_predicts_with_its_only_model(tmp_path: Path) -> None:
    rows = hospital_rows(60)
    only = table_run(rows, tmp_path, [{"kind": "fed_avg"}])
    found, encoding, weights = predict(only, rows), only.encoding("fed_avg"), only.tensors("fed_avg")
    inputs: Any = encoding.inputs
    columns = [
        (rows[one.name].to_numpy()[:, None] - one.mean) / one.std
        if one.kind == "number"
        else np.array([[word == known for known in one.words] for word in rows[one.name].to_pylist()])
        for one in inputs
    ]
    outputs = np.hstack(columns) @ weights["0.weight"][0].numpy() + float(weights["0.bias"])
    np.testing.assert_allclose(found["prediction"].to_numpy(), outputs * encoding.label_scale + encoding.label_mean, rtol=1e-4)
    assert found.column_names == ["prediction"]
    with pytest.raises(RunError, match=r"no model 'sf_hfe' \(it has fed_avg\)"):
        predict(only, rows, model="sf_hfe")


# -- clients that did not take part ----------------------------------------------------------------------------------------


def sites(names: list[str], rows: int, seed: int) -> pa.Table:
    """Rows of sites whose slopes and levels are drawn: y = <w_site, (a, b, 1)> + noise of .5."""
    rng = np.random.default_rng(seed)
    w = np.array([2.0, -1.0, 10.0]) + rng.standard_normal((len(names), 3)) * [1.2, 0.6, 2.0]
    x = rng.standard_normal((len(names), rows, 2))
    y = np.einsum("snf,sf->sn", np.concatenate([x, np.ones((len(names), rows, 1))], axis=2), w) + 0.5 * rng.standard_normal(
        (len(names), rows)
    )
    return pa.table({"site": np.repeat(names, rows), "a": x[..., 0].ravel(), "b": x[..., 1].ravel(), "days": y.ravel()})


def test_nine_of_ten_targets_of_clients_that_join_lie_in_their_intervals(tmp_path: Path) -> None:
    results = table_run(sites([f"site {i}" for i in range(40)], 12, seed=1), tmp_path)
    joined, errors, spreads = 60, [], []
    new = sites([f"new {i}" for i in range(joined)], 14, seed=2)
    for i in range(joined):
        own, labels = new.slice(14 * i, 14), (1, 2, 4, 8)[i % 4]
        found = predict(results, own.slice(8).drop_columns(["days"]), client=f"new {i}", labelled=own.slice(0, labels))
        errors.append(found["prediction"].to_numpy() - own.slice(8)["days"].to_numpy())
        spreads.append(np.hypot(found["uncertainty_shared"].to_numpy(), found["uncertainty_disagreement"].to_numpy()))
    inside = np.abs(errors) < 1.645 * np.array(spreads)
    assert 0.85 < inside.mean() < 0.95
    by_labels = [np.array(spreads)[start::4].mean() for start in range(4)]
    assert by_labels == sorted(by_labels, reverse=True)  # of a client with more labels more is known


def test_the_interval_of_a_client_that_joins_is_that_of_bayes_rule(tmp_path: Path) -> None:
    results = table_run(sites([f"site {i}" for i in range(20)], 12, seed=1), tmp_path)
    ensemble, encoding = results.ensemble(), results.encoding()
    own = sites(["new"], 9, seed=2)
    found = predict(results, own.slice(5), client="new", labelled=own.slice(0, 5))
    numbers: Any = encoding.inputs
    f = np.stack([(own[one.name].to_numpy() - one.mean) / one.std for one in numbers] + [np.ones(9)], axis=1)
    z = (own["days"].to_numpy() - encoding.label_mean) / encoding.label_scale
    noise, scatter = float(ensemble.noise[0]), ensemble.scatters[0].numpy()
    prior = noise * (np.diag(scatter) if scatter.ndim == 1 else scatter)
    gain = prior @ f[:5].T @ np.linalg.inv(f[:5] @ prior @ f[:5].T + noise * np.eye(5))
    head = ensemble.heads[0, :, 0].numpy()
    mean = head + gain @ (z[:5] - f[:5] @ head)
    variance = noise + np.einsum("nw,wv,nv->n", f[5:], prior - gain @ f[:5] @ prior, f[5:])
    np.testing.assert_allclose(found["prediction"].to_numpy(), f[5:] @ mean * encoding.label_scale + encoding.label_mean, rtol=1e-5)
    np.testing.assert_allclose(found["uncertainty_shared"].to_numpy(), np.sqrt(variance) * encoding.label_scale, rtol=1e-5)


def test_labels_of_the_rows_to_be_predicted_change_nothing(hospitals: Results, tmp_path: Path) -> None:
    rows, labelled = hospital_rows(20, seed=3), hospital_rows(8, seed=4)
    turned = rows.set_column(4, "days", pc.negate(rows["days"]))
    for options in ({"client": "island", "labelled": labelled}, {"client": "coast"}, {}):
        plain = predict(hospitals, rows.drop_columns(["days"]), **options)
        assert predict(hospitals, rows, **options).equals(plain)
        assert predict(hospitals, turned, **options).equals(plain)
    for same in (rows, rows.drop_columns(["days"])):
        with pytest.raises(TableError, match="its rows are those to be predicted"):
            predict(hospitals, same, client="island", labelled=rows)
    pq.write_table(rows.slice(0, 1), tmp_path / "one.parquet")
    (tmp_path / "again.parquet").symlink_to(tmp_path / "one.parquet")
    with pytest.raises(TableError, match="its rows are those to be predicted"):
        predict(hospitals, tmp_path / "one.parquet", client="island", labelled=tmp_path / "again.parquet")


def test_a_client_that_is_not_there_is_refused_with_the_nearest_name(hospitals: Results) -> None:
    rows = hospital_rows(9)
    for asked, said in {"cost": "the nearest name is coast", "HILL": "the nearest name is hill", 3: "that of id 3 is north"}.items():
        with pytest.raises(UnknownClient, match=said):
            predict(hospitals, rows, client=asked)
    with pytest.raises(OptionError, match=r"coast took part .* leave --labelled out"):
        predict(hospitals, rows, client="coast", labelled=hospital_rows(5))
    with pytest.raises(OptionError, match="--top is for an ensemble's router"):
        predict(hospitals, rows, client="coast", top=1)
    with pytest.raises(TableError, match="days: the table has no such column, and a new head is made from labels"):
        predict(hospitals, rows, client="island", labelled=rows.slice(1).drop_columns(["days"]))
    with pytest.raises(TableError, match="has no rows"):
        predict(hospitals, rows, client="island", labelled=rows.slice(0, 0))
    nameless = predict(hospitals, rows, labelled=hospital_rows(5))
    assert nameless.schema.metadata[b"answered_by"] == b"a new head, made from 5 labelled rows"


# -- files -----------------------------------------------------------------------------------------------------------------


def test_the_program_refuses_or_writes_what_is_asked_for(hospitals: Results, tmp_path: Path) -> None:
    rows = hospital_rows(7, seed=4)
    pyarrow.csv.write_csv(rows.append_column("code", pa.array([f"00{i}" for i in range(7)])), tmp_path / "new.csv")
    pyarrow.csv.write_csv(hospital_rows(5, seed=5), tmp_path / "labelled.csv")

    def program(out: str, *options: str) -> tuple[int, str]:
        done = CliRunner().invoke(
            app, ["predict", str(hospitals.directory), str(tmp_path / "new.csv"), "--out", str(tmp_path / out), *options]
        )
        return done.exit_code, done.output

    for out, options, said in (
        ("a.csv", ("--client", "caost"), "nearest name is coast"),
        ("a.csv", ("--keep", "wrad"), "did you mean ward?"),
        ("a.txt", (), "must end in one of .csv, .parquet, .pq"),
        ("a", (), "must end in one of"),
        ("a.csv", ("--client", "island", "--labelled", str(tmp_path / "new.csv")), "its rows are those to be predicted"),
    ):
        code, output = program(out, *options)
        assert (code, said in output, (tmp_path / out).exists()) == (2, True, False), output
    assert program("joined.csv", "--client", "island", "--labelled", str(tmp_path / "labelled.csv"))[0] == 0
    code, output = program("a.csv", "--client", "coast", "--keep", "code", "--keep", "site")
    assert code == 0, output
    assert "made by the head of client coast" in output
    text = pyarrow.csv.ConvertOptions(column_types={"code": pa.string()})
    written = pyarrow.csv.read_csv(tmp_path / "a.csv", convert_options=text)
    assert written.column_names == ["code", "site", "prediction", "expert_0", "uncertainty_shared", "uncertainty_disagreement"]
    assert written["code"].to_pylist() == [f"00{i}" for i in range(7)]
    assert written["site"].equals(rows["site"])
    plain = predict(hospitals, rows, client="coast")
    np.testing.assert_array_equal(written["prediction"].to_numpy(), plain["prediction"].to_numpy())
    assert program("a.pq", "--model", "fed_avg")[0] == 0
    assert pq.read_table(tmp_path / "a.pq").column_names == ["prediction"]


def test_kept_columns_keep_their_types_and_never_replace_a_prediction(hospitals: Results, tmp_path: Path) -> None:
    rows = hospital_rows(4)
    more = rows.append_column("kind", pa.array(["x", "y", "x", None]).dictionary_encode()).append_column(
        "tags", pa.array([[1], [], [2], None])
    )
    found = predict(hospitals, more, keep=["tags", "kind", "days", "kind"])
    assert found.column_names[:4] == ["tags", "kind", "days", "prediction"]
    assert found["kind"].equals(more["kind"])
    assert found["days"].equals(rows["days"])
    pq.write_table(more, tmp_path / "rows.parquet")
    write_predictions(hospitals, tmp_path / "rows.parquet", tmp_path / "out.csv", keep=["kind"])
    assert pyarrow.csv.read_csv(tmp_path / "out.csv")["kind"].to_pylist() == ["x", "y", "x", ""]
    with pytest.raises(OptionError, match="CSV cannot hold the columns"):
        write_predictions(hospitals, tmp_path / "rows.parquet", tmp_path / "other.csv", keep=["tags"])
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "out.csv"}
    with pytest.raises(TableError, match="the predictions have a column of that name too"):
        predict(hospitals, rows.append_column("prediction", rows["age"]), keep=["prediction"])
