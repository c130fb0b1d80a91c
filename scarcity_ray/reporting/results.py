"""A finished, running or killed run, read back from its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.federation import Encoding
from scarcity_ray.reporting.rebuild import rebuild

ENSEMBLE = "ensemble."
"""What tensors are called that belong to the whole ensemble, and to no client's module."""

TABLES = ("rounds", "clients", "insights")


class RunError(ValueError):
    """A directory, or a file of one, that is not what a run leaves; says which and why."""


class Results:
    """What a run left. Every property reads the directory anew, so a run that goes on can be watched."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def load(cls, run_dir: str | Path) -> Results:
        """The results in a run's directory. Raises RunError if it is none."""
        directory = Path(run_dir)
        if not directory.is_dir():
            raise RunError(f"{directory} is no directory")
        if not (directory / "scenario.yaml").is_file():
            found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
            raise RunError(f"{directory} is not the directory of a run: it has no scenario.yaml (it has {found})")
        return cls(directory)

    def __repr__(self) -> str:
        return f"Results({str(self.directory)!r})"

    @property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario, as YAML holds it."""
        content = yaml.safe_load(self._text("scenario.yaml"))
        if not isinstance(content, dict):
            raise RunError(f"{self.directory / 'scenario.yaml'} holds no scenario")
        return content

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, revision, processor: see reporting.environment."""
        return self._json("environment.json")

    @property
    def summary(self) -> dict[str, Any]:
        """The last metrics and costs by strategy, see reporting.summary. Raises RunError before a run's end."""
        return self._json("summary.json")

    @property
    def rounds(self) -> pa.Table:
        """One row a round, `tables.ROUNDS`."""
        return self.table("rounds")

    @property
    def clients(self) -> pa.Table:
        """One row a client and evaluated round, `tables.CLIENTS`."""
        return self.table("clients")

    @property
    def insights(self) -> pa.Table:
        """One row an insight: strategy, seed and the scalar part."""
        return self.table("insights")

    def table(self, name: str, columns: list[str] | None = None, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
        """A table as Arrow: all of it, or columns and rows as `pyarrow.parquet.read_table` chooses them."""
        if name not in TABLES:
            raise RunError(f"a run has no table {name!r}; it has {', '.join(TABLES)}")
        path = self.directory / f"{name}.parquet"
        if not path.exists():
            raise RunError(f"{path} is missing")
        try:
            return pq.read_table(path, columns=columns, filters=filters)
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def frame(self, name: str) -> Any:
        """A table as a pandas DataFrame; null is NaN."""
        return self.table(name).to_pandas()

    @property
    def models(self) -> list[str]:
        """The names of the saved models: a strategy's, and with repeats `NAME.seed8` for the later seeds."""
        return sorted(path.stem for path in (self.directory / "models").glob("[!.]*.safetensors"))

    def tensors(self, model: str) -> dict[str, Tensor]:
        """A model's tensors, by torch's own names and shapes; personal models are `[clients, ...]`, with `client_id`."""
        path = self._model_path(model)
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def metadata(self, model: str) -> dict[str, Any]:
        """What was saved beside a model's tensors."""
        path = self._model_path(model)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def model(self, model: str, client: int | None = None) -> nn.Module:
        """A saved model as a torch module in evaluation mode; `client` names whose, where every client has its own."""
        tensors = {name: value for name, value in self.tensors(model).items() if not name.startswith(ENSEMBLE)}
        try:
            module = rebuild(self.metadata(model))
        except (KeyError, ValueError) as error:  # pydantic's error is a ValueError too
            raise RunError(f"{self._model_path(model)} does not say what module it belongs to: {error}") from error
        shapes = {name: value.shape for name, value in module.state_dict().items()}
        ids = tensors.pop("client_id", None)
        stacked = any(value.shape != shapes.get(name) for name, value in tensors.items())
        if ids is not None or stacked:
            known = self._experts(model) if ids is None else {one: place for place, one in enumerate(ids.tolist())}
            if client is None or client not in known:
                asked = "name one of them as client" if client is None else f"client {client} has none"
                raise RunError(f"{model} holds the models of {len(known)} clients; {asked}")
            # What all share, such as a representation, is saved once and has the module's own shape.
            tensors = {name: value if value.shape == shapes.get(name) else value[known[client]] for name, value in tensors.items()}
        module.load_state_dict(tensors)
        return module.eval()

    def is_ensemble(self, model: str) -> bool:
        """Whether a saved model is an ensemble of experts with a router."""
        with safe_open(self._model_path(model), framework="pt") as file:
            return f"{ENSEMBLE}heads" in file.keys()  # noqa: SIM118 - no mapping

    def ensemble(self, model: str = "sf_hfe") -> Ensemble:
        """A saved ensemble: experts, router and clients' own heads. Raises RunError for a model that is none."""
        tensors, metadata = self.tensors(model), self.metadata(model)
        if f"{ENSEMBLE}heads" not in tensors:
            raise RunError(f"{self._model_path(model)} holds one model, no ensemble of experts")
        representation = rebuild(metadata).get_submodule("representation")
        prefix = "representation."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        representation.load_state_dict(own)
        return Ensemble.of(representation, metadata["problem"]["task"], tensors)

    def encoding(self, model: str = "sf_hfe") -> Encoding:
        """How a table becomes a model's inputs and targets. Raises RunError where the run did not say."""
        told = self.metadata(model).get("encoding")
        if told is None:
            raise RunError(f"{self._model_path(model)} does not say how a table becomes its inputs")
        return Encoding.model_validate_json(json.dumps(told))

    def moments(self, model: str, client: int) -> Moments | None:
        """The moments that a client sent for an ensemble; None where they are not kept (see MetaLearner.learn)."""
        told = self.metadata(model)
        who = [("strategy", "=", told["title"]), ("seed", "=", told["seed"]), ("client_id", "=", client)]
        table = self.table("insights", ["num_samples", "moments"], who)
        table = table.filter(table["moments"].is_valid())
        if not table.num_rows:
            return None
        ensemble, problem = self.tensors(model)[f"{ENSEMBLE}whole"], told["problem"]
        packing = Packing(ensemble.shape[0], ensemble.shape[1], problem["task"])
        last = table.slice(table.num_rows - 1)
        row = np.asarray(last["moments"].combine_chunks().flatten())[None]
        return packing.unpack(row, last["num_samples"].to_numpy())

    def _experts(self, model: str) -> dict[int, int]:
        """The expert that each client of a model of several was last seen with."""
        told = self.metadata(model)
        who = [("strategy", "=", told["title"]), ("seed", "=", told["seed"])]
        rows = self.table("clients", ["round", "client_id", "expert_id"], who).sort_by("round")
        rows = rows.filter(rows["expert_id"].is_valid())
        return dict(zip(rows["client_id"].to_pylist(), rows["expert_id"].to_pylist(), strict=True))

    def _model_path(self, model: str) -> Path:
        if model not in self.models:
            raise RunError(f"{self.directory} has no model {model!r}; it has {', '.join(self.models) or 'none'}")
        return self.directory / "models" / f"{model}.safetensors"

    def _text(self, name: str) -> str:
        try:
            return (self.directory / name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            hint = ": the run goes on, or was killed; its tables can be read" if name == "summary.json" else ""
            raise RunError(f"{self.directory / name} is missing{hint}") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self._text(name))
        except json.JSONDecodeError as error:
            raise RunError(f"{self.directory / name} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.directory / name} holds no object")
        return content
