"""report.html, the last page of a run: what a board reads, in one file."""

from scarcity_ray.report.page.document import NAME, draw_page, page

__all__ = ["NAME", "draw_page", "page"]
