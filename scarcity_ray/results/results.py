"""A finished, running or killed run, read back from its directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from scarcity_ray.core.federation import Encoding
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.results.reading import BrokenFile, RunError, believing, inside, read_json, read_whole
from scarcity_ray.results.rebuild import has_no_inputs_setting, imports, of_metadata, rebuild
from scarcity_ray.results.recorder import MODEL_BYTES
from scarcity_ray.results.sealed import load_sealed
from scarcity_ray.results.stored_table import TABLES, read_table
from scarcity_ray.scenario import plain_yaml
from scarcity_ray.training.problem import Problem

__all__ = ["ENSEMBLE", "TABLES", "Results", "RunError"]

ENSEMBLE = "ensemble."
"""The prefix of tensors that belong to the whole ensemble, and to no client's module."""

_MODEL = re.compile(r"[A-Za-z0-9_-]+(\.seed\d+)?")
_MOST_YAML = 2**20  # bytes; a scenario has a few thousand, and reading so many takes seconds


class Results:
    """The results in a run's directory. Every property reads it again, so a run can be watched while it continues.

    The directory may come from anybody: no code in it is run, and content that no run writes is a RunError that names the file.
    A model of `{kind: import}` is a function of a user's module: it is called only with `imports`.
    """

    def __init__(self, directory: Path, *, imports: bool = False) -> None:
        self.directory, self.imports = directory, imports

    @classmethod
    def load(cls, run_dir: str | Path, *, imports: bool = False) -> Results:
        """The results in a run's directory. imports: call the functions that its models name. Raises RunError."""
        directory = Path(run_dir)
        try:
            if not directory.is_dir():
                raise RunError(f"{directory} is no directory")
            names = sorted(path.name for path in directory.iterdir())
            if not (directory / "scenario.yaml").is_file():
                found = ", ".join(names[:8]) or "nothing"
                raise RunError(f"{directory} is not the directory of a run: it has no scenario.yaml (it has {found})")
        except OSError as error:
            raise RunError(f"{directory} cannot be read: {error.strerror}") from error
        return cls(directory, imports=imports)

    def __repr__(self) -> str:
        return f"Results({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the final table."""
        from scarcity_ray.report.notebook import as_html  # the one thing that results need of the report, when it is asked for

        ended = inside(self.directory, "summary.json").exists()
        return as_html(self.directory, self.summary if ended else None)

    @property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario, as YAML holds it."""
        path = self._file("scenario.yaml")
        try:
            text = read_whole(path, _MOST_YAML).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokenFile(path, "it is no text in UTF-8") from error
        document = plain_yaml.read(text, str(path))
        if document.problems:
            raise BrokenFile(path, document.problems[0])
        if not isinstance(document.data, dict):
            raise BrokenFile(path, "it holds no scenario")
        return document.data

    def runnable(self) -> Path:
        """The scenario's file, to be run again. Raises RunError where it is broken, or names models to import and `imports` is off."""
        path = self._file("scenario.yaml")
        self._refuse_imports(path, self.scenario)
        return path

    def added_settings(self) -> list[str]:
        """Overrides (see scenario.load) for settings that are newer than the run: the values by which all is as it was then."""
        strategies = self.scenario.get("strategies")
        saved = strategies if isinstance(strategies, list) else []
        return [f"strategies.{place}.representation.inputs=false" for place, one in enumerate(saved) if has_no_inputs_setting(one)]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, revision, processor: see results.environment."""
        return read_json(self._file("environment.json"))

    @property
    def summary(self) -> dict[str, Any]:
        """The last metrics and costs by strategy, see results.summary. Raises RunError before a run's end."""
        return read_json(self._file("summary.json"))

    @property
    def scarcity(self) -> dict[str, Any] | None:
        """What each scarcity costs, see results.scarcity_costs; None without a report, or before its end."""
        return read_json(self._file("scarcity.json")) if inside(self.directory, "scarcity.json").exists() else None

    def answer(self) -> dict[str, Any]:
        """The run's folder and what it found, as `--json` prints it. Raises RunError before a run's end."""
        return {"directory": self.directory, "summary": self.summary, "scarcity": self.scarcity}

    @property
    def rounds(self) -> pa.Table:
        """One row a round, `tables.rounds`."""
        return self.table("rounds")

    @property
    def clients(self) -> pa.Table:
        """One row a client and evaluated round, `tables.clients`."""
        return self.table("clients")

    @property
    def insights(self) -> pa.Table:
        """One row an insight: strategy, seed and the scalar part."""
        return self.table("insights")

    def table(self, name: str, columns: list[str] | None = None, filters: list[tuple[str, str, Any]] | None = None) -> pa.Table:
        """A table as Arrow: all of it, or columns and rows as `pyarrow.parquet.read_table` chooses them."""
        return read_table(self.directory, name, columns, filters)

    def frame(self, name: str) -> Any:
        """A table as a pandas DataFrame; null is NaN."""
        return self.table(name).to_pandas()

    @property
    def models(self) -> list[str]:
        """The names of the saved models: a strategy's, and with repeats `NAME.seed8` for the later seeds."""
        return sorted(path.stem for path in (self.directory / "models").glob("*.safetensors") if _MODEL.fullmatch(path.stem))

    def tensors(self, model: str) -> dict[str, Tensor]:
        """A model's tensors, by torch's own names and shapes; personal models are `[clients, ...]`, with `client_id`."""
        return self.saved(model)[0]

    def metadata(self, model: str) -> dict[str, Any]:
        """The metadata saved beside a model's tensors."""
        return self.saved(model)[1]

    def saved(self, model: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both, `tensors` and `metadata`, with the file read once."""
        return load_sealed(self._model_path(model), most=2 * MODEL_BYTES)

    def model(self, model: str, client: int | None = None) -> nn.Module:
        """A saved model as a torch module in evaluation mode. client: whose, where every client has its own."""
        path, (saved, metadata) = self._model_path(model), self.saved(model)
        tensors = {name: value for name, value in saved.items() if not name.startswith(ENSEMBLE)}
        module = self._rebuilt(path, metadata)
        shapes = {name: value.shape for name, value in module.state_dict().items()}
        ids = tensors.pop("client_id", None)
        stacked = any(value.shape != shapes.get(name) for name, value in tensors.items())
        with believing(path):
            if ids is not None or stacked:
                known = self._experts(metadata) if ids is None else {one: place for place, one in enumerate(ids.tolist())}
                if client is None or client not in known:
                    asked = "name one of them as client" if client is None else f"client {client} has none"
                    raise RunError(f"{path} holds the models of {len(known)} clients; {asked}")
                # Shared parts, such as a representation, are saved once and have the module's own shape.
                tensors = {name: value if value.shape == shapes.get(name) else value[known[client]] for name, value in tensors.items()}
            module.load_state_dict(tensors)
        return module.eval()

    def strategy(self, model: str, clients: int) -> tuple[Strategy, Problem]:
        """The strategy that a saved model is of, and its problem for so many clients, as if each had one training row."""
        path, metadata = self._model_path(model), self.metadata(model)
        self._refuse_imports(path, metadata)
        with believing(path):
            return of_metadata(metadata, np.broadcast_to(np.int64(1), clients))

    def client_ids(self, model: str) -> list[int]:
        """The ids of the clients that a saved model was evaluated for, rising: those in the table `clients` for its strategy and seed."""
        with believing(self._model_path(model)):
            whose = _whose(self.metadata(model))
        return sorted(self.table("clients", ["client_id"], whose)["client_id"].unique().to_pylist())

    def is_ensemble(self, model: str) -> bool:
        """Whether a saved model is an ensemble of experts with a router."""
        return f"{ENSEMBLE}heads" in self.tensors(model)

    def ensemble(self, model: str = "sf_hfe") -> Ensemble:
        """A saved ensemble: experts, router and clients' own heads. Raises RunError for a model that is none."""
        path, (tensors, metadata) = self._model_path(model), self.saved(model)
        if f"{ENSEMBLE}heads" not in tensors:
            raise RunError(f"{path} holds one model, no ensemble of experts")
        module = self._rebuilt(path, metadata)
        with believing(path):
            representation = module.get_submodule("representation")
            prefix = "representation."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            representation.load_state_dict(own)
            ensemble = Ensemble.of(representation, metadata["problem"]["task"], tensors)
            _hold_together(ensemble, tuple(metadata["problem"]["shape"]))
        return ensemble

    def encoding(self, model: str = "sf_hfe") -> Encoding:
        """How a table becomes a model's inputs and targets. Raises RunError if the run did not save it."""
        path, metadata = self._model_path(model), self.metadata(model)
        if (saved := metadata.get("encoding")) is None:
            raise RunError(f"{path} does not say how a table becomes its inputs")
        with believing(path):
            encoding = Encoding.model_validate_json(json.dumps(saved))
            problem, task = metadata["problem"], "regression" if encoding.classes is None else "classification"
            fits = encoding.shape == tuple(problem["shape"]) and task == problem["task"]
            if not fits or (encoding.classes and len(encoding.classes) != problem["outputs"]):
                raise ValueError(f"{task} of rows of shape {list(encoding.shape)}, for a model of {problem}")
        return encoding

    def moments(self, model: str, client: int) -> Moments | None:
        """The moments that a client sent for an ensemble; None if they were not kept (see MetaLearner.learn)."""
        path, (tensors, metadata) = self._model_path(model), self.saved(model)
        with believing(path):
            table = self.table("insights", ["num_samples", "moments"], [*_whose(metadata), ("client_id", "=", client)])
            table = table.filter(table["moments"].is_valid())
            if not table.num_rows:
                return None
            ensemble, problem = tensors[f"{ENSEMBLE}whole"], metadata["problem"]
            packing = Packing(ensemble.shape[0], ensemble.shape[1], problem["task"])
            last = table.slice(table.num_rows - 1)
            row = np.asarray(last["moments"].combine_chunks().flatten())[None]
            return packing.unpack(row, last["num_samples"].to_numpy())

    def _experts(self, metadata: dict[str, Any]) -> dict[int, int]:
        """The expert that each client of a model of several was last seen with."""
        rows = self.table("clients", ["round", "client_id", "expert_id"], _whose(metadata)).sort_by("round")
        rows = rows.filter(rows["expert_id"].is_valid())
        return dict(zip(rows["client_id"].to_pylist(), rows["expert_id"].to_pylist(), strict=True))

    def _model_path(self, model: str) -> Path:
        if model not in self.models:
            raise RunError(f"{self.directory} has no model {model!r}; it has {', '.join(self.models) or 'none'}")
        return inside(self.directory, f"models/{model}.safetensors")

    def _rebuilt(self, path: Path, metadata: dict[str, Any]) -> nn.Module:
        self._refuse_imports(path, metadata)
        try:
            with believing(path):
                return rebuild(metadata)
        except BrokenFile as error:
            raise BrokenFile(path, f"it does not say what module it belongs to: {error.cause}") from error

    def _refuse_imports(self, path: Path, data: dict[str, Any]) -> None:
        with believing(path):
            names = [] if self.imports else imports(data)
        if names:
            raise RunError(
                f"{path} says that its model comes from {', '.join(names)}: to call that is to run its code, with this file's arguments; "
                "if you trust both, ask for it: Results.load(run_dir, imports=True)"
            )

    def _file(self, name: str) -> Path:
        path = inside(self.directory, name)
        if not path.exists():
            hint = ": the run has not ended, or was killed; its tables can be read" if name == "summary.json" else ""
            raise RunError(f"{path} is missing{hint}")
        return path


def _whose(metadata: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Which rows of the run's tables are a model's."""
    return [("strategy", "=", str(metadata["title"])), ("seed", "=", int(metadata["seed"]))]


def _hold_together(ensemble: Ensemble, shape: tuple[int, ...]) -> None:
    """Raises an error unless an ensemble's parts fit each other, and inputs of a shape."""
    experts, width, outputs = ensemble.heads.shape
    clients = len(ensemble.client_id)
    expected: dict[str, list[tuple[int, ...]]] = {
        "whole": [(width, outputs)],
        "scale": [(experts,)],
        "noise": [(experts,)],
        "scatters": [(experts, width), (experts, width, width)],
        "covariances": [(experts, width, width)],
        "expert_id": [(clients,)],
        "client_id": [(clients,)],
        "personal": [(clients, width, outputs)],
    }
    for name, shapes in expected.items():
        part = getattr(ensemble, name)
        if part is not None and tuple(part.shape) not in shapes:
            raise ValueError(f"{name} has shape {list(part.shape)}, where {experts} experts of {width} features need {list(shapes[0])}")
    ids, of = ensemble.client_id.tolist(), ensemble.expert_id.tolist()
    if len(set(ids)) != clients or not all(0 <= one < 2**31 for one in ids) or not all(0 <= one < experts for one in of):
        raise ValueError("its clients or their experts are numbers that no run gives")
    ensemble.predict(torch.zeros(1, *shape))
