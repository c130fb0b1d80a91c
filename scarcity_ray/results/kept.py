"""What a run that did not come to its end has left, in words, and how to continue it."""

from __future__ import annotations

from pathlib import Path

from scarcity_ray.results.checkpoints import FOLDER


def kept(directory: Path | None) -> list[str]:
    """Lines for the user: what is in the run's directory, and the command that continues the run where it has a checkpoint."""
    if directory is None or not directory.is_dir():
        return ["nothing was written"]
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in directory.iterdir())
    lines = [f"kept in {directory}: {', '.join(names) or 'nothing'}"]
    if any((directory / FOLDER).glob("*")):
        lines.append(f"to continue: scarcity-ray resume {directory}")
    return lines
