"""Notebooks: results show their table, and a run shows one output that changes."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray import Results, simulate

ROOT = Path(__file__).parents[2]


class Cells(HTMLParser):
    """The text of each cell of a table, by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        self.text = "" if tag in ("td", "th") else self.text

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.rows[-1].append(self.text)


def test_results_show_their_table(tmp_path: Path) -> None:
    hostile = {"kind": "fed_avg", "name": "a_b"}
    results = simulate(scenario(strategies=[hostile, {"kind": "local_only"}]), out=tmp_path / "run & <b>")
    html = results._repr_html_()
    rows = Cells(html).rows
    assert [row[0].split()[0] for row in rows] == ["strategy", "guess", "alone", "a_b", "local_only"]
    assert "run &amp; &lt;b&gt;" in html
    (results.directory / "summary.json").unlink()
    assert "has not ended" in Results.load(results.directory)._repr_html_()


@pytest.mark.slow
def test_a_notebook_runs_a_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    source = {"kind": "arrays"}
    content = scenario(rounds=30, data={"source": source}, model={"kind": "linear"}, strategies=[{"kind": "fed_avg"}, {"kind": "sf_hfe"}])
    cells = [
        "import json\nimport numpy as np\nfrom scarcity_ray import simulate\nrng = np.random.default_rng(0)\nx = rng.normal(size=(400, 6))",
        f"content = json.loads({json.dumps(json.dumps(content))})\n"
        "content['data']['source'] |= {'x': x, 'y': (x[:, 0] > 0).astype(int), 'client': np.arange(400) % 10}\n"
        "results = simulate(content, show=True)",
        "results",
        "results.frame('rounds').groupby('strategy')['test_accuracy'].last().round(3)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    run, shown = notebook.cells[1].outputs, notebook.cells[2].outputs
    progress = [one for one in run if "text/html" in one.get("data", {}) and "round 30/30" in one["data"]["text/html"]]
    assert len(progress) == 1  # one output that changed, not a line for each round
    assert not [one for one in run if one.output_type == "stream" and one.name == "stderr"]
    assert "fed_avg" in [row[0].split()[0] for row in Cells(shown[0]["data"]["text/html"]).rows]
