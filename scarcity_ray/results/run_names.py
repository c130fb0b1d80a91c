"""What runs are called side by side: by the last parts of their paths that no other one has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scarcity_ray.results.reading import RunError


def run_names(directories: Sequence[Path]) -> list[str]:
    """A name for each: `noniid`, or `monday/noniid` beside `tuesday/noniid`. Raises RunError where a directory is named twice."""
    paths = [directory.resolve() for directory in directories]
    found = []
    for path in paths:
        if paths.count(path) > 1:
            raise RunError(f"{path} is named twice")
        tails = (path.parts[-count:] for count in range(1, len(path.parts) + 1))
        found.append("/".join(next(tail for tail in tails if [other.parts[-len(tail) :] for other in paths].count(tail) == 1)))
    return found
