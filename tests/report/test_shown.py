import io
import json
import logging
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.played import federation, shards
from helpers.rows import INSIGHTS, a_round, metrics_of, some_clients
from rich.console import Console

from scarcity_ray.actors.report import RoundResult
from scarcity_ray.core.federation import Array, Encoding
from scarcity_ray.core.metrics import headline
from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.report import progress as progress_module
from scarcity_ray.report import units
from scarcity_ray.report.curves import _apart, draw_curves
from scarcity_ray.report.progress import Progress
from scarcity_ray.results.environment import environment
from scarcity_ray.results.files import to_json
from scarcity_ray.results.log import get_logger, log_to
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.results import Results
from scarcity_ray.results.summary import Tally
from scarcity_ray.runtime.observers.base import Round
from scarcity_ray.runtime.observers.log import RunLog

ACCURACY = headline("classification")


class Server:
    pass


LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - [A-Za-z_]+\.[A-Za-z_]+ - [A-Z]+ - .*")


def test_log_lines_have_the_format_even_in_a_traceback(tmp_path):
    Server.__module__ = "scarcity_ray.actors.server"
    with log_to(tmp_path / "logs" / "scarcity.log"):
        get_logger(Server).info("round %d", 3)
        get_logger(Server).debug("not shown")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("scarcity_ray.runtime.simulation.Simulation").exception("it failed")
    get_logger(Server).info("after the run")
    lines = (tmp_path / "logs" / "scarcity.log").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert lines[0].endswith(" - server.Server - INFO - round 3")
    assert lines[1].endswith(" - simulation.Simulation - ERROR - it failed")
    assert not any("not shown" in line or "after the run" in line for line in lines)


def test_the_log_calls_rejected_clients_by_their_own_names(tmp_path):
    x = np.zeros((2, 4))
    encoding = Encoding(inputs=Array(shape=(4,)), client="site", clients=("north", "south"))
    held = replace(federation(shards(x, np.zeros((2, 1), dtype=np.float32), [1, 1])), encoding=encoding)
    for population in (2, 1):
        plan, problem = SimpleNamespace(federation=held), SimpleNamespace(population=population)
        result = RoundResult({"round": 4}, 0, rejected=[(1, "too large"), (None, "no id")])
        with log_to(tmp_path / f"{population}.log"):
            RunLog(None, ()).on_round(SimpleNamespace(name="fed_avg", plan=plan, problem=problem), Round(result, result.row, None))
    named, virtual = ((tmp_path / f"{population}.log").read_text() for population in (2, 1))
    assert "fed_avg: round 4: client south is rejected: too large" in named
    assert "client None is rejected: no id" in named
    assert "client 1 is rejected: too large" in virtual


def test_the_log_leaves_logging_as_it_was(tmp_path):
    logger = logging.getLogger("scarcity_ray")
    before = logger.level, logger.propagate, list(logger.handlers)
    with log_to(tmp_path / "a.log"):
        pass
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_the_environment_is_json_and_says_what_results_depend_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    found = environment(7, tmp_path)
    assert json.loads(to_json(found)) == found
    assert found["seed"] == 7
    assert found["git"] is None
    assert found["variables"]["MKL_CBWR"] == "AUTO"
    assert found["versions"]["numpy"] == np.__version__
    assert found["cpu"]["cores"] >= 1


def shown(rounds, every=1, terminal=False, show=True, status="finished"):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with Progress(show, console) as progress:
        progress.begin("fed_avg", 7, rounds, ACCURACY)
        for number in range(1, rounds + 1):
            row = a_round(number)
            if number % every == 0:
                row |= {"test_loss": 0.5, "test_accuracy": 0.75, "test_accuracy_worst_decile": 0.25}
            progress.update(row, 1480.0)
        progress.end(status)
    return console.file.getvalue()


def test_plain_lines_are_the_first_and_the_last_and_one_a_second_at_most():
    lines = shown(1000).splitlines()
    assert lines[0] == "fed_avg  round 1/1000  loss 0.500  accuracy 0.750 (worst tenth 0.250)  16 B  1,480 updates/s"
    assert lines[-1] == "fed_avg  round 1000/1000  loss 0.500  accuracy 0.750 (worst tenth 0.250)  15.6 KB  1,480 updates/s".replace(
        "15.6", "16"
    )
    assert len(lines) < 100


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [("regression", None, "loss 4.000  RMSE 2.000 (worst tenth 3.000)"), ("classification", "log_loss", "loss 4.000  16 B")],
)
def test_a_line_has_the_metric_that_decides(task, name, words):
    console = Console(file=io.StringIO(), width=80)
    with Progress(True, console) as progress:
        progress.begin("one", 7, 1, headline(task, name))
        progress.update(a_round(1) | {"test_loss": 4.0, "test_loss_worst_decile": 9.0, "test_accuracy": 0.5}, 1.0)
        progress.end()
    assert words in console.file.getvalue()


def test_plain_lines_are_of_evaluated_rounds(monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    rounds = [line.split()[2] for line in shown(10, every=4).splitlines()]
    assert rounds == ["1/10", "4/10", "8/10", "10/10"]


def told(monkeypatch, ends, rounds, first=1, **options):
    """Plain lines of rounds that end at such seconds, the first of which has the number `first`."""
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    clock = {"now": 0.0}
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    console = Console(file=io.StringIO(), width=80)
    with Progress(True, console) as progress:
        progress.begin("one", 7, rounds, ACCURACY, **options)
        for number, clock["now"] in enumerate(ends, start=first):
            progress.update(a_round(number) | {"test_loss": 0.5}, 1.0)
        progress.end()
    return console.file.getvalue().splitlines()


def test_the_time_left_is_that_of_the_rounds_after_the_first(monkeypatch):
    # the first round takes 50 s, as it starts the strategy; 3 s each for the other 57, then 4 s each for 56 more
    lines = told(monkeypatch, [50, 53, 56, 62], rounds=60)
    assert ["left" in line for line in lines] == [False, False, True, True]
    assert lines[2].endswith("2 min 51 s left")
    assert lines[3].endswith("3 min 44 s left")
    # a run that continues has no times of the rounds before: 4 rounds of 2 s are left
    assert told(monkeypatch, [1, 3, 5], rounds=60, first=54)[-1].endswith("  8.0 s left")


def test_a_strategy_that_ends_by_itself_has_no_time_left(monkeypatch):
    lines = told(monkeypatch, [50, 53, 56], rounds=60, at_most=True)
    assert [line.split("  ")[1] for line in lines] == [f"round {number} of at most 60" for number in (1, 2, 3)]
    assert not any("left" in line for line in lines)
    assert STRATEGIES.classes["sf_hfe"]().ends_early
    assert not STRATEGIES.classes["sf_hfe"](forgetting=0.5).ends_early


def test_a_strategy_that_stops_early_shows_its_last_round_and_why():
    console = Console(file=io.StringIO(), width=80)
    with Progress(True, console) as progress:
        progress.begin("fed_avg", 7, 60, ACCURACY)
        progress.update(a_round(1), 1.0)
        progress.update(a_round(2), 1.0)
        progress.end("diverged")
    lines = console.file.getvalue().splitlines()
    assert lines[-2].startswith("fed_avg  round 2/60  train loss 0.500")
    assert lines[-1] == "fed_avg: diverged after round 2"


def test_progress_is_silent_when_told_and_works_on_a_terminal():
    assert shown(3, show=False) == ""
    assert "fed_avg" in shown(3, terminal=True)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (153600, "150 KB"), (7.7 * 2**20, "7.7 MB"), (2**42, "4.0 TB")]
)
def test_sizes_in_words(count, words):
    assert units.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (12.4, "12 s"), (185, "3 min 05 s"), (59.6, "1 min 00 s"), (7800, "2 h 10 min")]
)
def test_durations_in_words(seconds, words):
    assert units.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "-"), (float("nan"), "-"), (0.9391, "0.939"), (0.0, "0.000"), (0.000412, "0.000412"), (1234.5, "1,234"), (69914.2, "69,914")],
)
def test_numbers_in_words(value, words):
    assert units.number(value) == words


@pytest.mark.parametrize(("value", "words"), [(0.2814, "+0.281"), (-12.44, "-12.4"), (999.7, "+1,000"), (-2964.3, "-2,964")])
def test_gains_in_words(value, words):
    assert units.signed(value) == words


def test_labels_move_apart_as_little_as_may_be():
    # 0.5 and 0.51 share their middle 0.505, half a step each; 0.9 stays
    assert _apart(np.array([0.5, 0.51, 0.9]), 0.1) == pytest.approx([0.455, 0.555, 0.9])
    assert _apart(np.array([0.5, 0.5, 0.5]), 0.1) == pytest.approx([0.4, 0.5, 0.6])


def draw(directory, strategies, task="classification", seeds=(7,), loss=None):
    tally = Tally("x", task, clients=2)
    with Recorder(directory, "name: x\n", {}, INSIGHTS) as recorder:
        for seed in seeds:
            for name, rounds in strategies:
                tally.begin(name, name, seed)
                for number in range(1, rounds + 1):
                    row, columns = a_round(number, name, seed), some_clients(number, name, seed)
                    if name == "local_only":
                        row |= {"uplink_bytes": 0, "downlink_bytes": 0}
                    if task == "regression":
                        columns |= {"test_accuracy": np.nan}
                    if loss is not None:
                        columns |= {"test_loss": np.array(loss)}
                    if task != "untested":
                        row |= metrics_of(columns)
                        recorder.clients(columns)
                        tally.evaluated(row, columns)
                    recorder.round(row)
                    tally.round(row)
                tally.end(name, seed, "finished", "x")
        recorder.finish(tally.summary())
    path = directory / "curves.png"
    draw_curves(Results.load(directory), path)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "case",
    [
        {"strategies": [("fed_avg", 1)]},
        {"strategies": [("local_only", 5)]},
        {"strategies": [("local_only", 5), ("fed_avg", 5), ("sf_hfe", 2)], "seeds": (7, 8)},
        {"strategies": [("local_only", 5), ("fed_avg", 3)], "task": "regression"},
        {"strategies": [("fed_avg", 3)], "task": "regression", "loss": [1e30, np.inf]},
        {"strategies": [("fed_avg", 3)], "task": "untested"},
    ],
    ids=["one round", "no bytes", "repeats", "regression", "diverged", "no test rows"],
)
def test_curves_are_drawn_for_any_run(tmp_path, case):
    assert draw(tmp_path, **case).read_bytes().startswith(b"\x89PNG")
