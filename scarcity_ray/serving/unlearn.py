"""Taking a client out of a finished run: what the others' messages give is learned again, what cannot be is removed, the rest is named."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scarcity_ray.core.federation import Encoding
from scarcity_ray.data.arrays import FILE
from scarcity_ray.results.checkpoints import FOLDER
from scarcity_ray.results.files import to_json, write_whole
from scarcity_ray.results.reading import believing, inside, refuse_links
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.results.sealed import save_sealed
from scarcity_ray.results.stored_table import PREDICTIONS
from scarcity_ray.results.summary import over_seeds
from scarcity_ray.scenario import what_if
from scarcity_ray.serving.participants import Participants
from scarcity_ray.serving.replay import CannotReplay, Replayed, replay
from scarcity_ray.serving.rows import relearned_columns, replace_table, without
from scarcity_ray.strategies.insight_exchange import InsightExchange

MEASURED = (
    "what was measured while the client took part: rounds.parquet, the metrics in summary.json and in the other clients' rows of the "
    "tables, curves.png, the report on scarcity, logs"
)
"""What stays in every case: a record of the past, with which nothing predicts."""

_REPLAYED = ("sf_hfe", "afl", "prototypes")
_LEARNED = (
    *("representation", "experts", "evidence", "strength", "scale", "clients", "rows"),
    *("left_out", "temperature", "differ", "loyalty", "coefficients", "screened", "harm", "label_mix", "separate"),
)
"""What summary.json says of what was learned, beyond metrics."""


@dataclass(frozen=True)
class Unlearned:
    """What was done to a run to take a client out of it.

    relearned: models that are now what the other clients' messages give. cut: models of each client's own, of which the client's left.
    removed: files that are gone, and why. stays: what of the client is still in the models, a sentence each; beside it MEASURED stays.
    """

    relearned: list[str]
    cut: list[str]
    removed: dict[str, str]
    stays: list[str]

    def lines(self) -> list[str]:
        """The same for a reader, a line each."""
        done = [f"learned again without it: {name}" for name in self.relearned]
        done += [f"its own model left, the others' do not depend on it: {name}" for name in self.cut]
        done += [f"removed: {name}: {why}" for name, why in self.removed.items()]
        return [*done, *(f"stays: {what}" for what in (*self.stays, MEASURED))]


@dataclass
class _Change:
    """All that is to be written."""

    models: dict[str, tuple[Mapping[str, Tensor], dict[str, Any]]] = field(default_factory=dict)
    replayed: dict[tuple[str, int], Replayed] = field(default_factory=dict)
    relearned: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    stays: list[str] = field(default_factory=list)


def unlearn(results: Results, client: str | int, *, strict: bool = False) -> Unlearned:
    """Takes a client out of a run, in place, and returns what was done and what stays.

    client: by its name in the user's data, or by its id where the data name no clients. strict: refuse where anything of it would stay
    in a model (see Unlearned.stays).

    Learned again, as if the client had never sent a message: the models of sf_hfe (grouping, strengths, heads, router, own heads; with
    `forgetting` from the messages of all rounds), afl and prototypes, with what summary.json and the table of clients say of them.
    Where clients have models of their own that depend on nobody else (local_only), the client's leaves the file. Removed: all other
    models that clients trained together or for each other, checkpoints (resume and verify start from the beginning), experts.png,
    report.html, coefficients.csv and the runs of a report on scarcity. insight_exchange is among them: how many steps each client
    trained followed from what all clients gained.
    The client's rows leave `insights`, `clients` and `predictions`, its name the files of models.

    Stays, and is returned: means, standard deviations, words and classes by which tables are read; a bandwidth from surveys or pilots
    (the others' messages were made with it); MEASURED. summary.json says who was unlearned. `verify` then finds a difference.

    Raises RunError, and nothing is changed, where the client is not in the run (with the nearest name), where fewer than two clients or
    no model would be left, where an ensemble cannot be learned again (its trunk was trained by rounds; its moments were not kept), for
    `strict`, and for files that are not what a run leaves. OSError where files cannot be written; call it again then.
    """
    directory = results.directory
    refuse_links(directory)
    everyone = Participants(results)
    known = everyone.find(client)
    _refuse_too_few(results, everyone, known, client)
    # All is read and learned before the first file is written.
    change = _Change()
    for name in results.models:
        with believing(inside(directory, f"models/{name}.safetensors")):
            if (seed := int(results.metadata(name)["seed"])) in known:
                _plan(results, name, known[seed], change)
    if not change.relearned and not change.cut:
        why = "; ".join(f"{name}: {cause}" for name, cause in change.removed.items()) or "it has saved no models"
        raise RunError(f"{directory} has no model that could be without client {client}: run the scenario again without it ({why})")
    summary = results.summary
    with believing(directory / "summary.json"):
        _correct(summary, change.replayed, known)
    tables = {}
    for table in ("insights", "clients", *([PREDICTIONS] if (directory / f"{PREDICTIONS}.parquet").exists() else [])):
        with believing(inside(directory, f"{table}.parquet")):
            rows = without(results.table(table), known)
            tables[table] = relearned_columns(rows, change.replayed) if table == "clients" else rows
    change.removed |= {
        name: why
        for name, why in (
            (FOLDER, "they hold the client's state, and what all clients had learned"),
            ("experts.png", "it shows the client among the others"),
            ("report.html", "it shows the client among the others; `report` makes it again"),
            ("coefficients.csv", "they are those of all clients' rows"),
            (what_if.FOLDER, "its runs were played with the client"),
            (FILE, "it holds the client's rows"),
        )
        if inside(directory, name).exists()
    }
    if strict and change.stays:
        raise RunError(f"nothing was changed, as of client {client} there would stay: {'; '.join(change.stays)}")

    for name in change.removed:
        path = inside(directory, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for table, rows in tables.items():
        replace_table(inside(directory, f"{table}.parquet"), rows)
    write_whole(inside(directory, "summary.json"), to_json(summary).encode())
    for name, (tensors, metadata) in change.models.items():  # last: they say who is in the run
        save_sealed(inside(directory, f"models/{name}.safetensors"), tensors, metadata)
    return Unlearned(change.relearned, change.cut, change.removed, change.stays)


def _refuse_too_few(results: Results, everyone: Participants, known: Mapping[int, int], client: str | int) -> None:
    for seed, who in known.items():
        others = [one for one in everyone.ids[seed] if one != who]
        if len(others) < 2:
            number = "a single client" if others else "no client"
            raise RunError(f"{results.directory}: without client {client}, {number} would be left, and a federation needs at least 2")


def _plan(results: Results, name: str, client: int, change: _Change) -> None:
    """Decides what becomes of a saved model."""
    tensors, metadata = results.saved(name)
    file, kind, ensemble = f"models/{name}.safetensors", metadata["strategy"]["kind"], results.is_ensemble(name)
    if ensemble or kind in _REPLAYED:
        try:
            found = replay(results, name, client)
        except CannotReplay as reason:
            if ensemble:
                path = results.directory / file
                raise RunError(
                    f"{path} cannot be without the client: {reason}; run the scenario again without it, or remove this file first"
                ) from None
            change.removed[file] = str(reason)
            return
        change.replayed[str(metadata["title"]), int(metadata["seed"])] = found
        change.relearned.append(name)
        change.stays += found.stays
        tensors = found.tensors
    elif "client_id" in tensors and _apart(results, name):
        change.cut.append(name)
        mine = tensors["client_id"] != client
        tensors = {key: value[mine] for key, value in tensors.items()}
    else:
        change.removed[file] = "the client's training or its messages made it what it is"
        return
    encoding = results.encoding(name)
    if (read := _read_by(encoding)) and read not in change.stays:
        change.stays.append(read)
    if names := metadata["encoding"].get("clients"):
        names[client] = ""
    change.models[name] = (tensors, metadata)


def _apart(results: Results, name: str) -> bool:
    """Whether the clients' own models in a file depend on no other client."""
    strategy, problem = results.strategy(name, 2)
    if isinstance(strategy, InsightExchange):
        return not strategy.guide
    return strategy.server_half == "server" and not strategy.uploads(problem, strategy.init_server(problem))


def _read_by(encoding: Encoding) -> str:
    """Says what of a table's reading came from the clients' rows; empty for arrays, whose values are used unchanged."""
    if not isinstance(encoding.inputs, tuple):
        return ""
    numbers = [one.name for one in encoding.inputs if one.kind == "number"] + [encoding.label] * (encoding.classes is None)
    words = [one.name for one in encoding.inputs if one.kind == "text"] + [encoding.label] * (encoding.classes is not None)
    parts = [f"means and standard deviations of {', '.join(dict.fromkeys(numbers))}"] if numbers else []
    parts += [f"the words of {', '.join(words)}"] if words else []
    return f"how every model reads tables: {' and '.join(parts)}, found with the client's rows. The other clients' inputs were made so"


def _correct(summary: dict[str, Any], replayed: Mapping[tuple[str, int], Replayed], known: Mapping[int, int]) -> None:
    """Takes out of a summary what was learned with the client, and puts in what is learned now."""
    summary["unlearned"] = list(dict.fromkeys([*summary.get("unlearned", []), *known.values()]))
    only = next(iter(known))
    for title, entry in summary["strategies"].items():
        seeds = entry.get("seeds")
        entries = {only: entry} if seeds is None else {int(seed): one for seed, one in seeds.items()}
        for seed, one in entries.items():
            if seed in known:
                learned = replayed[title, seed].learned if (title, seed) in replayed else {}
                for name in _LEARNED:
                    one.pop(name, None)
                one |= learned
        if seeds is not None:
            for name in _LEARNED:
                entry.pop(name, None)
            first = next(iter(entries.values()))
            entry |= {name: first[name] for name in _LEARNED if name in first}
            entry |= over_seeds(entries)
