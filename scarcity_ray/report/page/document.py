"""report.html: one file that a board reads offline, made from the files of a run's directory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.panels.answer import answer_of
from scarcity_ray.report.page.panels.coefficients import coefficients
from scarcity_ray.report.page.panels.costs import costs
from scarcity_ray.report.page.panels.experts import experts
from scarcity_ray.report.page.panels.gains import gains
from scarcity_ray.report.page.panels.learning import learning
from scarcity_ray.report.page.panels.leaves import leaves
from scarcity_ray.report.page.panels.limits import limits
from scarcity_ray.report.page.panels.links import links
from scarcity_ray.report.page.panels.next_client import next_client
from scarcity_ray.report.page.panels.predictions import predictions
from scarcity_ray.report.page.panels.reproduce import reproduce
from scarcity_ray.report.page.panels.site import site
from scarcity_ray.report.page.panels.strategies import strategies
from scarcity_ray.report.page.parts import Finder, Panel
from scarcity_ray.results.files import write_whole
from scarcity_ray.results.results import Results

NAME = "report.html"
"""The file in a run's directory."""

MOST_BYTES = 400_000
"""Of a page: what a mail and an old browser take easily. Beyond it the clients are left out of what can be looked up."""

PANELS: tuple[Callable[[Facts], Panel], ...] = (
    strategies,
    gains,
    site,
    predictions,
    coefficients,
    experts,
    next_client,
    learning,
    links,
    costs,
    leaves,
    limits,
    reproduce,
)
"""In the order of the page."""


def draw_page(results: Results, path: Path) -> None:
    """Writes the page of a finished run, complete or not at all. Raises RunError where the run has not ended or its files cannot be read,
    Unwritable."""
    write_whole(path, page(results).encode())


def page(results: Results) -> str:
    """The page as text. It makes no request: styles, script and data are in it, and its policy allows nothing else."""
    facts = Facts(results)
    panels = [panel for panel in (make(facts) for make in PANELS) if not panel.empty]
    whole = _rendered(facts, panels)
    return whole if len(whole.encode()) <= MOST_BYTES else _rendered(facts, [_without_sites(panel) for panel in panels])


def _rendered(facts: Facts, panels: list[Panel]) -> str:
    style, script = (_shipped(name) for name in ("page.css", "page.js"))
    finders = [part for panel in panels for part in panel.parts if isinstance(part, Finder)]
    environment = Environment(
        loader=PackageLoader("scarcity_ray.report.page", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["spelled"] = spelled
    return environment.get_template("page.html.j2").render(
        head=answer_of(facts),
        panels=panels,
        style=Markup(style),
        script=Markup(script),
        data=Markup(in_script(finders[0].sites)) if finders else "",
        policy=policy(style, script),
        footer=f"Made by scarcity_ray {(facts.environment.get('versions') or {}).get('scarcity-ray', '')} from the files of the run.",
    )


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: nothing is loaded, and only these two texts are applied and run."""
    allowed = (f"{kind}-src 'sha256-{_hash(text)}'" for kind, text in (("style", style), ("script", script)))
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def in_script(value: Any) -> str:
    """JSON that a script element can hold: no `<`, so that no text in it ends the element or begins another one, and no bare U+2028."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def spelled(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    pieces = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(one) if place % 2 else escape(one) for place, one in enumerate(pieces))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shipped(name: str) -> str:
    return resources.files("scarcity_ray.report.page").joinpath(name).read_text(encoding="utf-8")


def _without_sites(panel: Panel) -> Panel:
    """The panel without the clients: they would make the page too large."""
    if not any(isinstance(part, Finder) for part in panel.parts):
        return panel
    words = (
        f"There are too many clients for a page of {MOST_BYTES // 1000:,} KB: `scarcity-ray clients RUN_DIR --csv FILE` lists every one."
    )
    return Panel(panel.key, panel.title, [*panel.words, words], [part for part in panel.parts if not isinstance(part, Finder)])
