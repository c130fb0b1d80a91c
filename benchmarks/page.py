"""How large report.html is, and how long it takes to make and to open.

Runs of 54, 2,410, 5,000 and 7,424 generated clients, with sf_hfe and FedAvg: the page's kilobytes (400 at most), its elements in Chromium
(20,000 at most), the seconds to make it from the run's directory, and the seconds until a browser that has just started has opened and laid
it out (2 at most). Chromium is Debian's package, driven by the extra `browser`; without them the last columns stay empty.

python benchmarks/page.py                      # two minutes
python benchmarks/page.py --clients 54
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import show, write_json

from scarcity_ray import simulate
from scarcity_ray.report.page import draw_page
from scarcity_ray.report.page.document import MOST_BYTES

CLIENTS = (54, 2_410, 5_000, 7_424)
_TRIES = 5
_NODES, _SECONDS = 20_000, 2.0


def measured(clients: int) -> dict[str, Any]:
    """A run of so many clients, and what its page takes; the median of several tries."""
    source = {"kind": "shifted_regression", "features": 3, "shift": 0.3, "noise": 1.0}
    source["samples_per_client"] = {"lognormal": {"mean": 2.5, "sigma": 0.6, "minimum": 4}}
    scenario = {
        "name": "page", "seed": 1, "rounds": 10, "model": {"kind": "linear"}, "local": {"lr": 0.05}, "execution": {"ray": False},
        "data": {"source": source, "clients": clients},
        "strategies": [{"kind": "fed_avg", "fraction": 0.2}, {"kind": "sf_hfe", "representation": {"kind": "identity"}}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="scarcity-page-") as folder:
        results, path = simulate(scenario, out=Path(folder) / "run"), Path(folder) / "page.html"
        made = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            draw_page(results, path)
            made.append(time.perf_counter() - start)
        found = {"clients": clients, "bytes": path.stat().st_size, "seconds_to_make": _median(made)}
        return found | _in_browser(path)


def _in_browser(path: Path) -> dict[str, Any]:
    """Elements, and seconds from the request of the page until the browser has nothing more to do for it."""
    chromium = shutil.which("chromium")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        return {}
    if chromium is None:
        return {}
    opened = []
    with playwright.sync_playwright() as driver:
        for _ in range(_TRIES):
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            start = time.perf_counter()
            page.goto(path.as_uri())
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            opened.append(time.perf_counter() - start)
            nodes = page.evaluate("document.getElementsByTagName('*').length")
            browser.close()
    return {"nodes": nodes, "seconds_to_open": _median(opened)}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    asked = parser.parse_args()
    figures = [measured(clients) for clients in asked.clients]
    rows = [
        [
            f"{one['clients']:,}",
            f"{one['bytes'] / 1000:,.0f}",
            f"{one['nodes']:,}" if "nodes" in one else "",
            f"{one['seconds_to_make']:.2f}",
            f"{one['seconds_to_open']:.2f}" if "nodes" in one else "",
            "yes" if one["bytes"] <= MOST_BYTES and one.get("nodes", 0) <= _NODES and one.get("seconds_to_open", 0) <= _SECONDS else "NO",
        ]
        for one in figures
    ]
    show("report.html", ["clients", "KB", "elements", "seconds to make", "seconds to open", "within the bars"], rows)
    write_json(asked.json, {"pages": figures})


if __name__ == "__main__":
    main()
