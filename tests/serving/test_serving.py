"""What is done with a finished run: predicting, joining late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from helpers.hospitals import hospital_rows
from helpers.scenarios import scenario
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from scarcity_ray import Results, simulate
from scarcity_ray.data.encoding import encode
from scarcity_ray.run import app
from scarcity_ray.serving.predict import UnknownClient, predict


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("hospitals")
    pq.write_table(hospital_rows(), folder / "stays.parquet")
    source = {"kind": "table", "path": str(folder / "stays.parquet"), "label": "days", "client": "site"}
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "representation": {"kind": "identity"}, "experts": 1}]
    plain = scenario(data={"source": source, "test_fraction": 0.3}, model={"kind": "linear"}, strategies=strategies)
    return simulate(plain, out=folder / "run")


def digits(**data: Any) -> dict[str, Any]:
    shared = {"source": {"kind": "digits"}, "clients": 12, "partition": {"kind": "iid"}, "transforms": [{"kind": "rotate", "groups": 2}]}
    return shared | {"test_fraction": 0.5} | data


def test_a_clients_rows_get_its_own_head(hospitals: Results) -> None:
    rows = hospital_rows(30, seed=1)
    found = predict(hospitals, rows, client="coast")
    module, encoding = hospitals.model("sf_hfe", client=encoding_id(hospitals, "coast")), hospitals.encoding("sf_hfe")
    with torch.no_grad():
        expected = module(torch.from_numpy(encode(rows, encoding).x))[:, 0].double().numpy() * encoding.label_scale + encoding.label_mean
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected, rtol=1e-5)
    assert found["expert_0"].to_pylist() == [1.0] * 30
    own = rows.filter(pa.compute.equal(rows["site"], "coast"))
    errors = [
        np.abs(predict(hospitals, own, client=client)["prediction"].to_numpy() - own["days"].to_numpy()).mean()
        for client in ("coast", "north", None)
    ]
    assert errors[0] < min(errors[1:])  # sites differ by .8 days a step


def encoding_id(results: Results, name: str) -> int:
    clients = results.encoding("sf_hfe").clients
    assert clients is not None
    return clients.index(name)


def test_uncertainty_holds_what_it_says(hospitals: Results) -> None:
    rows = hospital_rows(4000, seed=2)
    rows = rows.filter(pa.compute.equal(rows["site"], "hill"))
    found = predict(hospitals, rows, client="hill")
    spread = np.hypot(found["uncertainty_shared"].to_numpy(), found["uncertainty_disagreement"].to_numpy())
    z = (found["prediction"].to_numpy() - rows["days"].to_numpy()) / spread
    assert 0.8 < z.std() < 1.25
    assert (spread < predict(hospitals, rows)["uncertainty_shared"].to_numpy()).all()  # of a stranger less is known


def test_a_new_client_with_labels_gets_a_head_of_its_own(hospitals: Results) -> None:
    own = hospital_rows(400, seed=3)
    own = own.filter(pa.compute.equal(own["site"], "coast"))  # a site like coast, under another name
    labelled, new = own.slice(0, 10), own.slice(10).drop_columns(["days"])
    truth = own.slice(10)["days"].to_numpy()
    stranger = predict(hospitals, new)["prediction"].to_numpy()
    joined = predict(hospitals, new, client="island", labelled=labelled)["prediction"].to_numpy()
    assert np.abs(joined - truth).mean() < 0.5 * np.abs(stranger - truth).mean()
    with pytest.raises(UnknownClient, match="give it labelled rows"):
        predict(hospitals, new, client="island")


def test_the_program_predicts_into_a_file_or_says_what_is_wrong(hospitals: Results, tmp_path: Path) -> None:
    pyarrow.csv.write_csv(hospital_rows(7, seed=4).drop_columns(["days"]), tmp_path / "new.csv")
    out = tmp_path / "out.parquet"
    done = CliRunner().invoke(app, ["predict", str(hospitals.directory), str(tmp_path / "new.csv"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "7 predictions" in done.output
    assert pq.read_table(out).equals(predict(hospitals, tmp_path / "new.csv"))
    pyarrow.csv.write_csv(hospital_rows(7).drop_columns(["dose"]), tmp_path / "less.csv")
    refused = CliRunner().invoke(app, ["predict", str(hospitals.directory), str(tmp_path / "less.csv"), "--out", str(out)])
    assert refused.exit_code == 2
    assert "dose" in refused.output
    pyarrow.csv.write_csv(hospital_rows(7).set_column(1, "ward", pa.array(["z"] * 7)), tmp_path / "other.csv")
    told = CliRunner().invoke(app, ["predict", str(hospitals.directory), str(tmp_path / "other.csv"), "--out", str(out)])
    assert "ward: 7 of 7 rows have a word that the training rows did not have" in told.output
    nowhere = CliRunner().invoke(app, ["predict", str(tmp_path), str(tmp_path / "new.csv"), "--out", str(out)])
    assert nowhere.exit_code == 2
    assert "not the directory of a run" in nowhere.output


def test_classes_come_with_probabilities_and_the_experts_that_answered(tmp_path: Path) -> None:
    strategies = [{"kind": "sf_hfe", "experts": 2, "representation": {"kind": "random_fourier", "features": 64}}]
    results = simulate(scenario(data=digits(clients=16), strategies=strategies), out=tmp_path / "run")
    x, y = load_digits(return_X_y=True)
    table = pa.table({f"x{i}": column / 16 for i, column in enumerate(x[:200].T)})
    found = predict(results, table)
    probabilities = np.stack([found[f"probability_{label}"].to_numpy() for label in range(10)], axis=1)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == found["prediction"].to_numpy()).all()
    assert (found["prediction"].to_numpy() == y[:200]).mean() > 0.85
    weights = np.stack([found[f"expert_{k}"].to_numpy() for k in range(2)], axis=1)
    np.testing.assert_allclose(weights.sum(1), 1)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(1)
    both = found["uncertainty_shared"].to_numpy() + found["uncertainty_disagreement"].to_numpy()
    np.testing.assert_allclose(both, entropy, atol=1e-9)
    top = predict(results, table, top=1)
    assert set(np.unique(top["expert_0"].to_numpy())) <= {0.0, 1.0}
