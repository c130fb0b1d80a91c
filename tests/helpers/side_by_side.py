"""Slow works at the same time: most of their time they wait for processes to start, or for a death to be noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def side_by_side(work: Callable[[Key], Value], keys: Iterable[Key]) -> dict[Key, Future[Value]]:
    """`work(key)` of each, all ended; `result()` raises what a work has raised."""
    keys = list(keys)
    with ThreadPoolExecutor(len(keys)) as pool:
        return {key: pool.submit(work, key) for key in keys}
