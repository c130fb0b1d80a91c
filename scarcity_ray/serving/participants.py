"""Who takes part in a run, by name, under each of its seeds."""

from __future__ import annotations

import pyarrow.compute as pc

from scarcity_ray.results.reading import believing, inside
from scarcity_ray.results.results import ENSEMBLE, Results, RunError
from scarcity_ray.serving.clients import Clients


class Participants:
    """The clients of all tables and saved models. One that was unlearned is not among them.

    ids: those of each seed. Where clients are held out, a client of one name has another id under another seed, or none.
    """

    def __init__(self, results: Results) -> None:
        """Raises RunError where the run has saved no model, or one that does not say how it reads tables."""
        if not results.models:
            raise RunError(f"{results.directory} has saved no models, so there is none to take a client out of")
        self._tested = results.table("clients", ["seed", "client_id", "client"])
        self.ids: dict[int, set[int]] = {}
        for rows in (results.table("insights", ["seed", "client_id"]), self._tested):
            for seed in rows["seed"].unique().to_pylist():
                self._add(seed, rows.filter(pc.equal(rows["seed"], seed))["client_id"].unique().to_pylist())
        read = []
        for name in results.models:
            (tensors, metadata), encoding = results.saved(name), results.encoding(name)
            with believing(inside(results.directory, f"models/{name}.safetensors")):
                read.append((int(metadata["seed"]), encoding))
                self._add(read[-1][0], *(tensors[key].tolist() for key in ("client_id", f"{ENSEMBLE}client_id") if key in tensors))
        self._named = [(seed, Clients(results, encoding, sorted(self.ids[seed]))) for seed, encoding in read]

    def _add(self, seed: int, *ids: list[int]) -> None:
        self.ids.setdefault(seed, set()).update(*ids)

    def find(self, client: str | int) -> dict[int, int]:
        """The client's id under each seed in which it took part. Raises RunError, with the nearest name, where there is none."""
        found = {seed: who for seed, clients in self._named if (who := clients.find(client)) is not None}
        if not found:
            raise RunError(self._named[0][1].unknown(client))
        for seed in self.ids.keys() - {seed for seed, _ in self._named}:  # its models were too large to be saved
            rows = self._tested.filter(pc.equal(self._tested["seed"], seed))
            mine = rows.filter(pc.equal(pc.coalesce(rows["client"], rows["client_id"].cast("string")), str(client)))
            if len(mine):
                found[seed] = mine["client_id"][0].as_py()
        return dict(sorted(found.items()))
