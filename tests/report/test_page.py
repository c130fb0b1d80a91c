"""report.html, from a run's files: what it says, that it is one safe file, and that what is not there is not drawn."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_names import LONG, NAMES, SCRIPT, table
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate
from scarcity_ray.report.page import page
from scarcity_ray.report.page.document import MOST_BYTES, in_script
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.page.panels.limits import limits
from scarcity_ray.report.page.panels.predictions import predictions
from scarcity_ray.report.page.parts import Figure
from scarcity_ray.report.units import number
from scarcity_ray.report.verdict import sentences
from scarcity_ray.results.client_report import client_report
from scarcity_ray.run import main

VOID = ("meta", "link", "input", "br", "img", "path", "rect", "circle")


class Document(HTMLParser):
    """Every element with its attributes and its own text, in order; fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        assert [self.found[place][0] for place in self._open if self.found[place][0] not in VOID] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self.found[self._open[-1]][0] != tag:
            assert self.found[self._open.pop()][0] in VOID
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.found[place][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(words)) for name, attributes, words in self.found if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Nine sites with hostile names, two classes, one seed."""
    folder = tmp_path_factory.mktemp("page")
    strategies = [{"kind": "fed_avg"}, {"kind": "sf_hfe", "representation": {"kind": "identity"}, "experts": 1}]
    evaluation = {"predictions": True, "metric": "log_loss", "positive": "no"}
    plain = scenario(data=table(folder), model={"kind": "linear"}, strategies=strategies, evaluation=evaluation, rounds=4)
    return simulate(plain, out=folder / "run")


@pytest.fixture(scope="module")
def text(run: Results) -> str:
    return page(run)


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document(text)


def test_it_is_one_file_that_its_own_policy_allows_and_that_asks_for_nothing(text: str, document: Document) -> None:
    assert len(text.encode()) < MOST_BYTES
    policy = next(str(attributes["content"]) for attributes, _ in document.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none';")
    for tag, kind in (("style", "style"), ("script", "script")):
        (content,) = [words for attributes, words in document.all(tag) if attributes.get("type") != "application/json"]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert kind == "style" or len(content) < 10_000
    for tag, attributes, _ in document.found:
        assert not {"src", "style", "srcset", "data"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert str(attributes.get("href", "#")).startswith("#")


def test_the_panels_come_in_order_and_say_what_the_run_says(run: Results, document: Document) -> None:
    titles = [words for _, words in document.all("h2")]
    assert titles == [
        *("How sure this is", "The strategies", "Gain by client", "Find my site", "How good the predictions are", "Experts and strangers"),
        *("The next client", "Learning", "Time on a link", "What leaves a site", "What this run cannot say", "How to reproduce this"),
    ]  # fmt: skip - nothing is scarce, so no panel of its costs
    paragraphs = [words for _, words in document.all("p")]
    assert set(sentences(run.summary)[1:]) <= set(paragraphs)
    cells = [words for _, words in document.all("td")]
    assert {entry["result_hash"] for entry in run.summary["strategies"].values()} <= set(cells)


def test_every_chart_has_a_name_a_description_and_its_numbers_as_a_table(document: Document) -> None:
    charts = [attributes for attributes, _ in document.all("svg") if "role" in attributes]
    ids = {attributes["id"] for _, attributes, _ in document.found if "id" in attributes}
    assert len(charts) >= 6
    for chart in charts:
        assert chart["role"] == "img"
        assert set(str(chart["aria-labelledby"]).split()) <= ids
    figures = [words for _, words in document.all("figure")]
    assert len(figures) == len(charts)
    assert all("Show as a table" in words for words in figures)


def test_names_are_text_whatever_they_hold(run: Results, text: str, document: Document) -> None:
    sites = json.loads(next(words for attributes, words in document.all("script") if attributes.get("type") == "application/json"))
    report = client_report(run)
    assert sites["columns"]["name"] == [shown(name) for name in report.table["client"].to_pylist()]
    assert SCRIPT in sites["columns"]["name"]
    assert len(document.all("script")) == 2
    assert not document.all("img")
    assert "\u202e" not in text
    assert LONG not in text
    assert max(map(len, sites["columns"]["name"])) <= 60
    heads = [words for _, words in document.all("bdi")]
    assert {shown(name) for name in NAMES} <= set(heads)
    gain = report.table["gain"].to_pylist()
    assert sites["columns"]["gain"] == pytest.approx([value * 10 ** sites["digits"] for value in gain], abs=0.5)


def test_net_benefit_drawn_from_answers_is_that_of_the_summary(run: Results) -> None:
    """The curve is of predictions.parquet, the summary's number of what each actor counted. The positive class is the first one."""
    name = client_report(run).strategy
    (figure,) = [part for part in predictions(Facts(run)).parts if isinstance(part, Figure) and part.key == "net-benefit"]
    curve = {row[0]: row[1] for row in figure.table.rows}
    for threshold in (0.1, 0.2):
        key = f"test_net_benefit_at_{threshold}_pooled".replace(".", "_")
        assert curve[f"{threshold:.2f}"] == number(run.summary["strategies"][name][key])


def test_too_many_clients_for_one_page_are_left_out_and_it_says_so(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scarcity_ray.report.page.document.MOST_BYTES", 20_000)
    found = Document(page(run))
    assert [attributes for attributes, _ in found.all("script")] == [{}]
    assert any("too many clients for a page of 20 KB" in words for _, words in found.all("p"))


def test_json_in_a_script_element_cannot_end_it() -> None:
    hostile = {"</script>": "<!--\u2028&"}
    assert "<" not in in_script(hostile)
    assert json.loads(in_script(hostile)) == hostile


def test_what_it_cannot_say_follows_from_what_was_played(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def about(**changes: Any) -> dict[str, str]:
        facts = Facts(run)
        facts.__dict__["scenario"] = run.scenario | changes
        return dict(next(iter(limits(facts).parts)).items)  # type: ignore[union-attr]

    found = about()
    assert {"One seed", "Test rows", "No validation rows", "No clock", "Margin", "Privacy"} <= set(found)
    assert not {"Made data", "Made clients", "Outcome"} & set(found)
    assert "Made data" in about(data={"source": {"kind": "blobs"}})
    assert "Made clients" in about(data={"source": {"kind": "digits"}, "partition": {"kind": "iid"}})
    assert "Rows that belong together" in found
    by_time = about(data=run.scenario["data"] | {"split": {"by": None, "time": "age"}})
    assert "Rows that belong together" not in by_time
    assert by_time["Time"] != found["Time"]
    assert "No clock" not in about(scarcity={"network": {"downlink": 1.0}})
    monkeypatch.setattr(Facts, "seeds", 5)
    assert "One seed" not in about()


def test_the_command_writes_it_and_refuses_what_is_no_finished_run(
    run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run.directory), "--out", str(out)])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert out.read_text(encoding="utf-8") == page(run)
    unfinished = tmp_path / "run"
    shutil.copytree(run.directory, unfinished)
    (unfinished / "summary.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(unfinished)])
    assert stopped.value.code == 2
    assert not (unfinished / "report.html").exists()


def test_a_run_that_learned_nothing_still_has_a_page(run: Results, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run.directory, copied)
    summary = run.summary
    for entry in summary["strategies"].values():
        entry |= {"status": "diverged", "gain": None, "not_learned": True} | {key: None for key in entry if re.match("test_|rmse", key)}
    (copied / "summary.json").write_text(json.dumps(summary | {"best": None, "comparisons": []}))
    titles = [words for _, words in Document(page(Results.load(copied))).all("h2")]
    assert not {"How good the predictions are", "Gain by client", "Find my site", "The next client", "Learning"} & set(titles)
    assert "What this run cannot say" in titles
