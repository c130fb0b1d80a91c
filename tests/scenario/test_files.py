"""Files that are no scenario, all problems of one at once, what is found only with the data, and how few rounds may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.spoiled import GOOD, dotted, problems_of

from scarcity_ray import simulate
from scarcity_ray.core.spec import SpecError
from scarcity_ray.scenario import ScenarioError, SpecErrors, load, parse


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "it is empty"),
        ("# nothing\n", 1, "it is empty"),
        ("- a\n- b\n", 1, "a scenario must be a mapping of fields, but it is [a, b]"),
        ("name: [a\nrounds: 3\n", 2, "not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("name: a\n\trounds: 3\n", 2, "not YAML"),
        ("name: a\n---\nname: b\n", 2, "expected a single document"),
        ("name: *nobody\n", 1, "not YAML: found undefined alias 'nobody'"),
        ("name: " + "[" * 3000, None, "nested too deeply"),
        ("name: a\x01\n", None, "not YAML"),
    ],
)
def test_a_file_that_is_no_scenario(text: str, line: int | None, words: str, tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "bad.yaml", text)
    assert words in problem.message
    assert problem.place is not None
    assert problem.place.line == line


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(ScenarioError, match="not text in UTF-8: byte 6 is 0xff"):
        load(path)


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "noniid.yaml").touch()
    with pytest.raises(ScenarioError, match=r"nonid.yaml: there is no such file; .* holds noniid.yaml"):
        load(tmp_path / "nonid.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(tmp_path)


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("seed: 7", "seed: -7").replace("rounds: 60", "rounds: 2.5").replace("epochs: 5", "epochs: 5, steps: 3, lrr: 1")
    text = text.replace("fraction: 0.1", "fraction: 7").replace("kind: sf_hfe", "kind: fed_avg").replace("cpus: auto", "actors: 200")
    problems = problems_of(tmp_path / "bad.yaml", text)
    assert [dotted(problem) for problem in problems] == [
        "seed",
        "rounds",
        "local",
        "local.lrr",
        "strategies.1.fraction",
        "strategies.2.name",
        "strategies.2.representation",
        "execution.actors",
    ]


def test_the_report_is_a_line_for_each_problem(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("seed: 7", "seed: -7").replace("rounds: 60", "rounds: 0"))
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        "bad.yaml cannot run: 2 problems",
        f"  {path}:2:1: seed is -7; allowed: an integer of at least 0 and below 9223372036854775808",
        f"  {path}:3:1: rounds is 0; allowed: an integer of at least 1",
    ]


def test_aliases_of_aliases_are_stopped(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (problem,) = problems_of(tmp_path / "bad.yaml", "\n".join(lines))
    assert "aliases expand to more than 100,000 values" in problem.message


def test_what_is_found_later_has_its_line_too(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    loaded = load(path, ["local.lr=0.1"])
    first = SpecError(("data", "partition", "minimum"), 2, "too many")
    errors = [first, SpecError(("strategies", 1, "fraction"), 0.1, "too few"), SpecError(("local", "lr"), 0.1, "too fast")]
    assert str(loaded.explain(SpecErrors(errors))).splitlines()[1:] == [
        "  --set local.lr=0.1: local.lr is 0.1: too fast",
        f"  {path}:7:3: data.partition.minimum is 2: too many",
        f"  {path}:13:21: strategies.1.fraction is 0.1: too few",
    ]
    assert [dotted(problem) for problem in loaded.explain(first).problems] == ["data.partition.minimum"]


@pytest.mark.parametrize(
    ("kind", "representation", "least"),
    [
        ("afl", {"kind": "identity"}, 1),
        ("sf_hfe", {"kind": "random_fourier", "features": 8}, 2),
        ("sf_hfe", {"kind": "auto", "features": 80}, 3),
        ("prototypes", None, 2),
        ("prototypes", {"kind": "random_fourier", "features": 8, "bandwidth": "evidence"}, 3),
        ("prototypes", {"kind": "random_fourier", "bandwidth": 2.0}, 1),
        ("prototypes", {"kind": "identity"}, 1),
        ("prototypes", {"kind": "trunk"}, 1),
        ("prototypes", {"kind": "trunk", "rounds": 4}, 5),
    ],
)
def test_the_fewest_rounds_that_give_a_model_are_allowed(
    kind: str, representation: dict[str, object] | None, least: int, tmp_path: Path
) -> None:
    """As many as the scenario or the strategy has; and a run of so many has a model."""
    strategy = {"kind": kind, **({} if representation is None else {"representation": representation})}
    data = {"source": {"kind": "blobs", "shape": [2], "classes": 2, "samples_per_client": 20}, "clients": 6}
    good = {"name": "a", "data": data, "model": {"kind": "mlp", "hidden": [4]}, "execution": {"ray": False}}
    for rounds, own in ((least - 1, {}), (99, {"rounds": least - 1})):
        if least > 1:
            with pytest.raises(ScenarioError, match="rounds"):
                parse({**good, "rounds": rounds, "strategies": [{**strategy, **own}]})
    parse({**good, "rounds": 99, "strategies": [{**strategy, "rounds": least}]})
    results = simulate({**good, "rounds": least, "strategies": [strategy]}, out=tmp_path / "run")
    assert results.models == [kind]
    assert results.summary["strategies"][kind]["test_accuracy"] > 0.5


def test_plain_data_is_checked_alike() -> None:
    good = {"name": "a", "rounds": 1, "data": {"source": {"kind": "digits"}, "clients": 3, "partition": {"kind": "iid"}}}
    strategies = [{"kind": "sf_hfe", "representation": {"kind": "identity"}}]
    assert parse({**good, "strategies": strategies}).model is None
    with pytest.raises(ScenarioError) as caught:
        parse({**good, "strategies": [{"kind": "fed_avg"}], "rounds": True})
    assert [str(problem) for problem in caught.value.problems] == [
        "rounds is true; allowed: an integer of at least 1",
        "model is not given: needed by fed_avg; say what to train, for example `model: {kind: linear}`",
    ]
