"""Taking a client out of a finished run: the ensemble as if its moments had never come, and no rows of it in the tables of clients."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from scarcity_ray.actors.expert import Expert
from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState
from scarcity_ray.core.history import History
from scarcity_ray.core.insights import schema
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.heads import head_state
from scarcity_ray.results.files import to_json, write_whole
from scarcity_ray.results.reading import believing, inside, refuse_links
from scarcity_ray.results.rebuild import of_metadata
from scarcity_ray.results.results import ENSEMBLE, Results, RunError
from scarcity_ray.results.sealed import save_sealed
from scarcity_ray.results.stored_table import PREDICTIONS
from scarcity_ray.serving.clients import Clients
from scarcity_ray.strategies.represented import messages
from scarcity_ray.strategies.sf_hfe import SfHfe


def unlearn(results: Results, client: str | int) -> list[str]:
    """Takes a client out of every ensemble of a run, in place, and returns their names.

    client: by its name in the user's data, or by its id where the data name no clients.

    Each ensemble learns again from the other clients' moments of the last round that has any: grouping, strengths, heads, router,
    personal heads, contributions. The result is that of a run without the client, except for what was made from its rows before the
    moments, which stays: means, standard deviations and words of the encoding; a bandwidth of Fourier features that came from surveys
    or pilots (one number, which a client changes by about its share of the rows); the weights of a trunk that was trained first.

    The client's rows leave `insights`, `clients` and `predictions`. Metrics measured before, `rounds`, plots, log and checkpoints stay
    as they were, and summary.json says who was unlearned. Models that the client helped to train cannot forget it and are removed: those
    that serve several clients, clients' own that were trained beside a shared one (as ditto's), and the coefficients of fed_glm. Files
    of other strategies with a model for each client stay as they were, with the client's own.

    Raises RunError where the run has no ensemble, its moments were not kept, the client is not in it (with the nearest name), or its
    files are not what a run leaves: nothing is changed then. OSError where they cannot be written.
    """
    refuse_links(results.directory)
    names = [name for name in results.models if results.is_ensemble(name)]
    if not names:
        raise RunError(f"{results.directory} has no ensemble to take a client out of; it has {', '.join(results.models) or 'no models'}")
    who = Clients(results, results.encoding(names[0]), results.ensemble(names[0]).client_id.tolist())
    known = who.find(client)
    if known is None:
        raise RunError(who.unknown(client))
    # All is read and learned before the first file is written.
    relearned, kept, summary = {}, {}, results.summary
    with believing(results.directory / "summary.json"):
        summary["unlearned"] = [*summary.get("unlearned", []), known]
    optional = [PREDICTIONS] if (results.directory / f"{PREDICTIONS}.parquet").exists() else []
    for table in ("insights", "clients", *optional):
        with believing(inside(results.directory, f"{table}.parquet")):
            rows = results.table(table)
            kept[table] = rows.filter(pa.array(rows["client_id"].to_numpy() != known))
    others = [name for name in results.models if name not in names and _serves_several(results, name)]
    for entry in summary["strategies"].values():
        for one in entry.get("seeds", {"": entry}).values():
            one.pop("coefficients", None)  # of fed_glm: a model of all rows
    for name in names:
        with believing(inside(results.directory, f"models/{name}.safetensors")):
            relearned[name] = _without(results, name, known)
    for name, (tensors, metadata) in relearned.items():
        save_sealed(inside(results.directory, f"models/{name}.safetensors"), tensors, metadata)
    for name in others:
        inside(results.directory, f"models/{name}.safetensors").unlink()
    inside(results.directory, "coefficients.csv").unlink(missing_ok=True)
    for table, rows in kept.items():
        _replace(inside(results.directory, f"{table}.parquet"), rows)
    write_whole(inside(results.directory, "summary.json"), to_json(summary).encode())
    return names


def _serves_several(results: Results, name: str) -> bool:
    """Whether a saved model is of several clients: there is one for all, or each client's own was held near what all of them sent."""
    if "client_id" not in results.tensors(name):
        return True
    strategy, problem = of_metadata(results.metadata(name), np.ones(2, dtype=np.int64))
    return strategy.server_half == "server" and bool(strategy.uploads(problem, strategy.init_server(problem)))


def _without(results: Results, name: str, client: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an ensemble learned without a client, and its metadata."""
    metadata, tensors, ensemble = results.metadata(name), results.tensors(name), results.ensemble(name)
    history, round = _history(results, metadata, client)
    names = (metadata.get("encoding") or {}).get("clients")
    if names:
        names[client] = ""
    strategy, problem = of_metadata(metadata, np.broadcast_to(np.int64(1), int(ensemble.client_id.max()) + 1))
    if not isinstance(strategy, SfHfe):
        raise TypeError(f"an ensemble is sf_hfe's, and this is {strategy.kind}'s")
    update = strategy.server_update(RoundContext(problem, round), ServerState(), Aggregate(history=history))
    heads = {k: Expert(k).fit(*order) for k, order in update.experts.items()}
    made = {key: value.contiguous() for key, value in strategy.with_experts(update, heads).private.items()}
    stays = ensemble.client_id[ensemble.client_id != client]
    made |= {"client_id": stays, "expert_id": made["expert_id"][stays]}
    saved = {key: value for key, value in tensors.items() if key.startswith("representation.")}
    saved |= {f"{ENSEMBLE}{key}": value for key, value in made.items()} | head_state(made["heads"][0] / made["scale"][0])
    if ensemble.personal is not None:
        relearned = Ensemble.of(ensemble.representation, ensemble.task, saved)
        ids, samples, rows = messages(history, round, strategy.column)
        packing, sent, own = strategy.packing(problem), {who: i for i, who in enumerate(ids.tolist())}, []
        for who, k in zip(stays.tolist(), made["expert_id"].tolist(), strict=True):
            there = strategy.personal and who in sent
            mine = slice(sent[who], sent[who] + 1) if there else slice(0)
            own.append(relearned.own_head(k, packing.unpack(rows[mine], samples[mine]))[0] if there else relearned.heads[k])
        saved |= {"client_id": stays} | head_state(torch.stack(own) / made["scale"][made["expert_id"]][:, None, None])
    return saved, metadata


def _history(results: Results, metadata: dict[str, Any], client: int) -> tuple[History, int]:
    """The insights with moments of an ensemble's strategy and seed, without those of one client, and their round."""
    who = [("strategy", "=", metadata["title"]), ("seed", "=", metadata["seed"])]
    table = results.table("insights", filters=who)
    table = table.filter(table["moments"].is_valid())
    if not table.num_rows:
        raise RunError(f"{results.directory} kept no moments of {metadata['title']}: they were more than a run writes down")
    round = int(table["round"].to_numpy().max())
    chosen = (table["round"].to_numpy() == round) & (table["client_id"].to_numpy() != client)
    table = table.filter(pa.array(chosen)).combine_chunks()
    numbers = table["moments"].combine_chunks()
    wanted = schema({"moments": len(numbers[0])})
    columns = [table[field.name].combine_chunks() for field in wanted if field.name != "moments"]
    packed = pa.FixedSizeListArray.from_arrays(numbers.flatten(), type=wanted.field("moments").type)
    history = History()
    history.add(round, pa.RecordBatch.from_arrays([*columns, packed], schema=wanted))
    return history, round


def _replace(path: Path, rows: pa.Table) -> None:
    """Replaces a table, in one step."""
    draft, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for folder in (draft, old):
        shutil.rmtree(folder, ignore_errors=True)
    draft.mkdir()
    pq.write_table(rows, draft / "part-00000000.parquet", compression="zstd", write_page_checksum=True)
    path.rename(old)
    draft.rename(path)
    shutil.rmtree(old)
