"""Expert: a model of the ensemble, fitted on the summed moments of its clients, and of rows of its own where it has some."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scarcity_ray.ensemble import ridge
from scarcity_ray.ensemble.heads import head_state, represented
from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.representation import FourierFeatures, WavesAndInputs


class Expert:
    """A linear head on a representation: the expert's model, and its shard: the summed moments of its group, and of rows of
    its own domain that are public or held out, where it was given some (`add`).

    representation: a torch module `[n, ...] -> [n, features]`; the inputs themselves, flattened, if left out.

    >>> import torch
    >>> x = torch.linspace(0, 1, 20)[:, None]
    >>> expert = Expert(expert_id=0)
    >>> head = expert.fit(Moments.of(x, 3 * x + 1, "regression", outputs=1), strength=1e-9)
    >>> round(float(expert.predict(torch.tensor([[2.0]]))), 3)
    7.0
    """

    def __init__(self, expert_id: int = 0, representation: nn.Module | None = None) -> None:
        self.expert_id = expert_id
        self.representation = representation or nn.Flatten()
        self.model: nn.Module | None = None
        self.shard: Moments | None = None
        self.strength, self.scale = 0.0, 1.0

    def fit(self, moments: Moments, strength: float, scale: float = 1.0) -> Tensor:
        """Solves the ridge head of a group's summed moments, and returns it: `[features + 1, outputs]`, float64.

        strength: of the ridge, on all but the constant. scale: what the model divides its outputs by; with one-hot targets
        and the temperature of ensemble.calibration they are logits.
        """
        head = ridge.fit(moments, strength)
        self.shard, self.strength, self.scale = moments, strength, scale
        self.model = represented(self.representation, len(head) - 1, head.shape[1])
        self.model.load_state_dict(head_state(head / scale), strict=False)
        return head

    def add(self, moments: Moments) -> Tensor:
        """Fits again with the moments of one more client, or of rows of its own domain (see `moments_of`); returns the head."""
        shard = self._shard()
        both = Moments(*(getattr(shard, part.name) + getattr(moments, part.name) for part in fields(Moments)))
        return self.fit(both, self.strength, self.scale)

    def remove(self, moments: Moments) -> Tensor:
        """Fits again without moments that were in its shard: the head that the others alone give, at the same strength."""
        return self.add(Moments(*(-getattr(moments, part.name) for part in fields(Moments))))

    def moments_of(self, x: Tensor, y: Tensor) -> Moments:
        """The moments of labelled rows `[n, ...]` on its representation, as its shard has them."""
        y = torch.as_tensor(y)
        with torch.no_grad():
            f = self.representation(torch.as_tensor(x, dtype=torch.float32))
        return Moments.of(f, y, "regression" if y.is_floating_point() else "classification", self._shard().cross.shape[1])

    def _shard(self) -> Moments:
        if self.shard is None:
            raise RuntimeError(f"expert {self.expert_id} has no shard yet: call fit or load first")
        return self.shard

    def predict(self, x: Tensor) -> Tensor:
        """The outputs `[n, outputs]` for inputs `[n, ...]`: predicted targets, or logits of the classes."""
        if self.model is None:
            raise RuntimeError(f"expert {self.expert_id} has no model yet: call fit or load first")
        with torch.no_grad():
            return torch.as_tensor(self.model(torch.as_tensor(x, dtype=torch.float32)))

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Mean loss over rows (cross-entropy where y are integer classes `[n]`, else squared error) and accuracy (NaN for targets)."""
        outputs, y = self.predict(x), torch.as_tensor(y)
        if y.is_floating_point():
            return {"loss": float(nn.functional.mse_loss(outputs, y.reshape(outputs.shape).float())), "accuracy": float("nan")}
        return {
            "loss": float(nn.functional.cross_entropy(outputs, y.long())),
            "accuracy": float((outputs.argmax(1) == y).double().mean()),
        }

    def save(self, path: str | Path) -> None:
        """Writes model and shard as one safetensors file: `model.*` by torch's own names and shapes, `shard.*`."""
        if self.model is None or self.shard is None:
            raise RuntimeError(f"expert {self.expert_id} has no model yet: there is nothing to save")
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        tensors |= {f"shard.{field.name}": getattr(self.shard, field.name).contiguous() for field in fields(Moments)}
        save_file(tensors, path, metadata={"expert_id": str(self.expert_id), "strength": repr(self.strength), "scale": repr(self.scale)})

    @classmethod
    def load(cls, path: str | Path, representation: nn.Module | None = None) -> Expert:
        """The expert that `save` wrote. representation: the module that it had, to be filled with its weights; not needed where
        that was the inputs themselves or Fourier features."""
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping
        state = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        frequencies = state.get("representation.frequencies")
        if representation is None and frequencies is not None:
            waves = FourierFeatures if state["head.weight"].shape[1] == len(frequencies) else WavesAndInputs
            representation = waves(frequencies.shape[1], len(frequencies))
        expert = cls(int(metadata["expert_id"]), representation)
        expert.shard = Moments(**{field.name: tensors[f"shard.{field.name}"] for field in fields(Moments)})
        expert.strength, expert.scale = float(metadata["strength"]), float(metadata["scale"])
        outputs, width = state["head.weight"].shape
        expert.model = represented(expert.representation, width, outputs)
        expert.model.load_state_dict(state)
        return expert
