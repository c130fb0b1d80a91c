"""The clients of a saved model, by the names that the user's data give them."""

from __future__ import annotations

import difflib

from scarcity_ray.core.federation import Encoding
from scarcity_ray.data.columns import some
from scarcity_ray.results.results import Results


class Clients:
    """The clients of a run that a model serves. One that was unlearned is not among them. ids: theirs, rising."""

    def __init__(self, results: Results, encoding: Encoding, ids: list[int]) -> None:
        self._directory, names = results.directory, encoding.clients
        there = [one for one in ids if names is None or 0 <= one < len(names)]
        self._ids = {str(one) if names is None else names[one]: one for one in there}
        self._named = names is not None

    def find(self, client: str | int) -> int | None:
        """The id of a client: by its name where the run's data name clients, else by its id. None for one that is not there."""
        return self._ids.get(str(client))

    def unknown(self, client: str | int) -> str:
        """Says that a client is not there, and what it may be meant for: the client of that id, or of the nearest name."""
        text = f"client {client} did not take part in {self._directory}"
        names = {name.casefold(): name for name in self._ids}
        by_id = {str(one): name for name, one in self._ids.items()} if self._named else {}
        if str(client) in by_id:
            return f"{text}: clients go by name, and that of id {client} is {by_id[str(client)]}"
        near = difflib.get_close_matches(str(client).casefold(), names, 1, cutoff=0)
        hint = f"; the nearest name is {names[near[0]]}" if near else ""
        return f"{text}{hint}. It has: {some(list(self._ids))}"
