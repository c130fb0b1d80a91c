import json

import numpy as np
import pytest
from helpers.rows import metrics_of
from rich.console import Console

from scarcity_ray.report.final_table import show_final
from scarcity_ray.report.verdict import verdict
from scarcity_ray.results.files import to_json
from scarcity_ray.results.summary import Tally


def play(tally, strategy, seed, *, kind=None, loss=None, accuracy=None, rounds=2, bytes_up=0, rows=(4, 4), status="finished", gain=None):
    """A strategy of `rounds` rounds of one client a round and half a second each, evaluated in the last."""
    tally.begin(strategy, kind or strategy, seed)
    for number in range(1, rounds + 1):
        traffic = {"uplink_bytes": bytes_up, "downlink_bytes": 2 * bytes_up}
        row = {"strategy": strategy, "seed": seed, "round": number, "clients": 1, "rejected": 0, "train_loss": None, "seconds": 0.5}
        tally.round(row | traffic, steps=3)
    if loss is not None or accuracy is not None:
        loss = [1.0] * len(rows) if loss is None else loss
        columns = {
            "client_id": np.arange(len(rows)),
            "num_test": np.array(rows),
            "test_loss": np.array(loss),
            "test_accuracy": np.full(len(rows), np.nan) if accuracy is None else np.array(accuracy),
        }
        if gain is not None:
            columns |= {f"gain{half}": np.asarray(gain, dtype=float) for half in ("", "_0", "_1")}
            columns |= {f"gain{half}_error": np.full(len(rows), 0.02) for half in ("", "_0", "_1")}
        tally.evaluated(row | metrics_of(columns), columns)
    tally.end(strategy, seed, status, f"hash {strategy} {seed}")


def test_costs_are_divided_by_the_population():
    tally = Tally("x", "classification", clients=4)
    play(tally, "fed_avg", 7, accuracy=[0.5, 1.0], bytes_up=8, rows=(1, 3))
    entry = tally.summary()["strategies"]["fed_avg"]
    assert tally.seconds("fed_avg", 7) == (2, 1.0)
    # 2 rounds of 8 bytes up and 16 down, 3 steps and one update each, for 4 clients; 2 updates in 1 second
    assert (entry["uplink_bytes_per_client"], entry["downlink_bytes_per_client"], entry["bytes_per_client"]) == (4.0, 8.0, 12.0)
    assert (entry["steps_per_client"], entry["client_updates"], entry["client_updates_per_second"]) == (1.5, 2, 2.0)
    assert (entry["rounds"], entry["seconds"], entry["status"], entry["result_hash"]) == (2, 1.0, "finished", "hash fed_avg 7")
    # mean (0.5 + 1) / 2; over rows (1 * 0.5 + 3 * 1) / 4; worst one of two clients
    assert (entry["test_accuracy"], entry["test_accuracy_pooled"], entry["test_accuracy_worst_decile"]) == (0.75, 0.875, 0.5)
    assert entry["raw_share_better_than_alone"] is None


def test_regression_gives_roots_and_no_accuracy():
    tally = Tally("x", "regression", clients=2)
    play(tally, "fed_avg", 7, loss=[1.0, 9.0], rows=(3, 1))
    entry = tally.summary()["strategies"]["fed_avg"]
    # root of (1 + 9) / 2 = 5; of (3 * 1 + 1 * 9) / 4 = 3; of the worst client's 9
    assert entry["rmse"] == pytest.approx(5**0.5)
    assert entry["rmse_pooled"] == pytest.approx(3**0.5)
    assert entry["rmse_worst_decile"] == 3.0
    assert entry["test_accuracy"] is None


def test_the_metrics_of_the_last_evaluated_round_are_kept_also_where_none_has_a_value():
    tally = Tally("x", "classification", clients=2)
    play(tally, "fed_avg", 7, accuracy=[0.5, 1.0])
    assert tally.summary()["strategies"]["fed_avg"]["test_accuracy_pooled"] == 0.75
    columns = {"client_id": np.arange(2), "test_accuracy": np.full(2, np.nan)}
    row = {"strategy": "fed_avg", "seed": 7, "test_loss": float("inf"), "test_accuracy": float("nan"), "test_accuracy_pooled": None}
    tally.evaluated(row, columns)
    entry = tally.summary()["strategies"]["fed_avg"]
    assert entry["test_loss"] == float("inf")
    assert entry["test_accuracy"] is None
    assert entry["test_accuracy_pooled"] is None


def test_raw_shares_compare_the_same_clients_of_the_same_seed():
    tally = Tally("x", "classification", clients=4)
    play(tally, "alone", 7, accuracy=[0.5, 0.5, 0.5, np.nan], rows=(4, 4, 4, 0))
    play(tally, "fed_avg", 7, accuracy=[0.9, 0.5, 0.1, np.nan], rows=(4, 4, 4, 0))
    entries = tally.summary()["strategies"]
    assert entries["fed_avg"]["raw_share_better_than_alone"] == pytest.approx(1 / 3)
    assert entries["fed_avg"]["raw_share_equal_to_alone"] == pytest.approx(1 / 3)
    assert entries["fed_avg"]["raw_share_worse_than_alone"] == pytest.approx(1 / 3)
    assert entries["alone"]["raw_share_better_than_alone"] is None


def test_repeats_have_a_mean_a_spread_and_each_seed():
    tally = Tally("x", "classification", clients=2)
    for seed, accuracy in ((7, 0.5), (8, 0.7)):
        play(tally, "fed_avg", seed, accuracy=[accuracy, accuracy], status="diverged" if seed == 8 else "finished")
    entry = tally.summary()["strategies"]["fed_avg"]
    assert entry["test_accuracy"] == pytest.approx(0.6)
    assert entry["std"]["test_accuracy"] == pytest.approx(0.02**0.5)  # ((-0.1)^2 + 0.1^2) / (2 - 1)
    assert entry["half_width"]["test_accuracy"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(0.975, 1) std / sqrt(2)
    assert entry["seeds"]["8"]["test_accuracy"] == pytest.approx(0.7)
    assert entry["status"] == "diverged"
    assert len(entry["result_hash"]) == 64


def test_a_strategy_that_did_not_end_is_interrupted_and_one_without_rows_has_no_metrics():
    tally = Tally("x", "classification", clients=2)
    tally.begin("fed_avg", "fed_avg", 7)
    entry = tally.summary()["strategies"]["fed_avg"]
    assert entry["status"] == "interrupted"
    assert entry["test_loss"] is None
    assert entry["client_updates_per_second"] is None
    assert "No federated strategy" in verdict(tally.summary())


def judged(gains, guess=None, seeds=(7,), **more):
    """A run of as many clients as gains have, which alone have an accuracy of .5. gains: by strategy, `[clients]`; guess: -0.4 each."""
    clients = len(next(iter(gains.values())))
    tally, rows = Tally("x", "classification", clients=clients, **more), (50,) * clients
    for seed in seeds:
        low = np.full(clients, -0.4) if guess is None else np.asarray(guess)
        play(tally, "guess", seed, accuracy=0.5 + low, rows=rows, gain=low)
        play(tally, "alone", seed, accuracy=np.full(clients, 0.5), rows=rows)
        for name, gain in gains.items():
            play(tally, name, seed, accuracy=0.5 + np.asarray(gain), rows=rows, gain=gain, bytes_up=512)
    return tally.summary()


RNG = np.random.default_rng(0)
SPREAD = 0.02 * RNG.standard_normal(40)


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (judged({"fed_avg": 0.2 + SPREAD}), ["Federating pays: mean accuracy 0.500 alone, 0.699 with fed_avg", "40 are surely better off"]),
        (judged({"fed_avg": -0.1 + SPREAD}), ["Federating does not pay: ", "0 are surely better off and 40 surely worse off"]),
        (judged({"fed_avg": 0.2 * np.sign(RNG.standard_normal(40)) + 0.1}), ["pays on average, but surely harms some"]),
        (judged({"fed_avg": SPREAD + 0.003}), ["No clear gain: ", "such clients would tell", "0 are surely better off"]),
        (judged({"fed_avg": SPREAD - SPREAD.mean() + 1e-5}), ["No clear gain: ", "even a hundred times as many would not tell"]),
        (judged({"fed_avg": SPREAD - 0.01}, guess=SPREAD[::-1]), ["Nothing was learned: no federated strategy is surely better"]),
        (judged({"fed_avg": 0.2 + SPREAD}), ["for these trained models", "The next client gains +0.1"]),
        (judged({"pooled": 0.4 + SPREAD, "sf_hfe": 0.3 + SPREAD, "fed_avg": 0.2 + SPREAD}), ["0.799 with sf_hfe"]),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_gains(summary, words):
    for word in words:
        assert word in verdict(summary)


def test_one_client_is_told_as_one_and_gets_no_advice():
    said = verdict(judged({"fed_avg": [0.1]}))
    assert "Of 1 client 1 is surely better off" in said or "Of 1 client 0 are surely better off" in said
    assert "would not tell" not in said


def test_two_clients_that_beat_a_guess_by_far_do_not_show_that_nothing_was_learned():
    said = verdict(judged({"fed_avg": [0.4, 0.1]}, guess=[-0.4, 0.0]))
    assert said.startswith("Whether anything was learned cannot be told: no federated strategy is surely better than a guess, which")


def test_more_clients_whose_mean_is_a_little_above_the_guess_have_learned_nothing():
    said = verdict(judged({"fed_avg": SPREAD - SPREAD.mean() + 1e-4}, guess=np.zeros(40)))
    assert said.startswith("Nothing was learned: ")


def test_a_client_alone_that_learns_nothing_says_nothing_of_federating():
    """Six clients do worse than the guess by themselves, and nobody federates."""
    tally, rows = Tally("x", "classification", clients=6), (50,) * 6
    for name, gain in (("guess", 0.0), ("local_only", -0.3)):
        play(tally, name, 7, accuracy=[0.5 + gain] * 6, rows=rows, gain=[gain] * 6)
    play(tally, "alone", 7, accuracy=[0.5] * 6, rows=rows)
    assert tally.summary()["strategies"]["local_only"]["not_learned"]
    assert verdict(tally.summary()) == "No federated strategy came to a result that can be compared, so there is nothing to judge."


def test_with_several_seeds_the_interval_holds_the_luck_of_training():
    said = verdict(judged({"fed_avg": 0.2 + SPREAD}, seeds=(7, 8)))
    assert "Federating pays" in said
    assert "for these trained models" not in said


def test_no_strategy_that_diverged_is_the_best():
    tally = Tally("x", "classification", clients=3)
    play(tally, "wild", 7, accuracy=[0.9] * 3, rows=(4,) * 3, gain=[0.4] * 3, status="diverged")
    assert "nothing to judge" in verdict(tally.summary())


def test_a_gain_that_only_large_clients_lose_is_told():
    tally, rows = Tally("x", "classification", clients=40), (5,) * 36 + (5000,) * 4
    gain = np.where(np.array(rows) > 5, -0.3, 0.1) + SPREAD
    play(tally, "guess", 7, accuracy=[0.1] * 40, rows=rows, gain=[-0.4] * 40)
    play(tally, "alone", 7, accuracy=[0.5] * 40, rows=rows)
    play(tally, "fed_avg", 7, accuracy=0.5 + gain, rows=rows, gain=gain)
    assert "Counted by test rows the mean gain is -0." in verdict(tally.summary())


@pytest.mark.parametrize("seeds", [(7,), (7, 8, 9)])
def test_the_table_fits_in_80_columns(tmp_path, seeds):
    summary = judged({"fed_avg": [0.1, 0.3]}, seeds=seeds)
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    (tmp_path / "curves.png").touch()
    show_final(console, summary, tmp_path)
    text = console.export_text()
    assert "seconds" in text
    assert "…" not in text
    assert f"0.700{'±.000' if len(seeds) > 1 else ''}" in text
    assert f"{tmp_path}/curves.png" in text.replace("\n", "")


def test_json_is_strict():
    values = {
        "nan": float("nan"),
        "inf": np.float32(np.inf),
        7: np.int64(3),
        "array": np.array([1.5, np.nan]),
        "none": None,
        "flag": np.bool_(True),
    }
    found = json.loads(to_json(values), parse_constant=lambda word: pytest.fail(f"not JSON: {word}"))
    assert found == {"nan": None, "inf": None, "7": 3, "array": [1.5, None], "none": None, "flag": True}
    with pytest.raises(TypeError):
        to_json({"object": object()})
