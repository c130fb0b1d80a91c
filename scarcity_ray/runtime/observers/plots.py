"""The plots of a run, and the page with all that it says."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from scarcity_ray.actors.server import Server
from scarcity_ray.results.log import get_logger
from scarcity_ray.results.results import Results
from scarcity_ray.runtime.fleet import describe_error
from scarcity_ray.runtime.observers.base import Observer


class Plots(Observer):
    """Draws the curves, the experts and the page of a run from the files of its directory. notify: takes a line for the user."""

    def __init__(self, directory: Path, notify: Callable[[str], None]) -> None:
        self.directory, self.notify = directory, notify

    def on_run_end(self, error: BaseException | None) -> None:
        from scarcity_ray.report.curves import draw_curves  # here, because matplotlib takes a second to import
        from scarcity_ray.report.experts_plot import draw_experts
        from scarcity_ray.report.page import NAME, draw_page

        for draw, name in ((draw_curves, "curves.png"), (draw_experts, "experts.png"), (draw_page, NAME)):
            try:
                draw(Results.load(self.directory), self.directory / name)
            except Exception as failure:  # all that it shows is in the tables
                get_logger(Server).warning("%s: %s\n%s", name, failure, traceback.format_exc())
                self.notify(f"{self.directory / name} could not be drawn: {describe_error(failure)}")
