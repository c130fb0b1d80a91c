"""The settings of local training: how many steps, of what size, with which optimizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from scarcity_ray.core.spec import Spec


class Local(Spec):
    """One client's local training in one round, in PyTorch's conventions. The optimizer's state is reset each round.

    An epoch is a new permutation of the client's training rows, cut into minibatches of `batch_size`. The last one may
    be smaller; its loss is the mean over its own rows (`DataLoader(shuffle=True, drop_last=False)`).
    """

    epochs: Annotated[int | None, Field(ge=1, description="passes over the client's rows a round; 1 if steps is not set")] = None
    steps: Annotated[int | None, Field(ge=1, description="minibatches a round, in place of epochs")] = None
    batch_size: Annotated[int, Field(ge=1, description="rows of a minibatch")] = 10
    lr: Annotated[float, Field(gt=0, description="step size")] = 0.1
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="sgd, or adam (betas 0.9 and 0.999, eps 1e-8)")] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1, description="SGD's momentum, without dampening")] = 0.0
    weight_decay: Annotated[float, Field(ge=0, description="weight decay: this times the weights is added to the gradient")] = 0.0
    clip_norm: Annotated[float | None, Field(gt=0, description="largest norm of a minibatch's gradient; null: not clipped")] = None

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_by_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is None and values.get("steps") is None:
            return {**values, "epochs": 1}
        return values

    @model_validator(mode="after")
    def _possible(self) -> Local:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError("momentum belongs to sgd; adam has its own: leave momentum out, or use sgd")
        return self

    def steps_for(self, samples: NDArray[np.int64], steps: int | None = None) -> NDArray[np.int64]:
        """Local steps in a round of clients with `samples` training rows: `ceil(n / batch_size) * epochs`, or `steps`.

        steps: in place of what is set; None for that.
        """
        samples = np.asarray(samples, dtype=np.int64)
        steps = self.steps if steps is None else steps
        return self.epoch_steps(samples) * (self.epochs or 1) if steps is None else np.where(samples > 0, steps, 0).astype(np.int64)

    def rows_for(self, samples: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows that so many steps read, of each client: all in a pass, and at most `batch_size` a step of the last one."""
        passes = np.maximum(self.epoch_steps(samples), 1)
        rows: NDArray[np.int64] = steps // passes * samples + np.minimum(steps % passes * self.batch_size, samples)
        return rows

    def epoch_steps(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Minibatches of one pass over `samples` rows, of each client: `ceil(n / batch_size)`."""
        steps: NDArray[np.int64] = -(-samples // self.batch_size)
        return steps


class LocalOverrides(Local):
    """A strategy's own local training: what it does not set is the scenario's (see `over`)."""

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_by_default(cls, values: Any) -> Any:
        """No default is set here, so that `model_fields_set` says what was. A whole Local sets everything."""
        return dict(values) if type(values) is Local else values

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if name in self.model_fields_set}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """No field has a default of its own."""
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema)["properties"].values():
            field.pop("default", None)
        return schema

    def over(self, local: Local) -> LocalOverrides:
        """These settings, each that is not set taken from the scenario's, so that all of them are set.

        epochs and steps are one setting, how long: either replaces the other, and neither is set by null. `optimizer: adam`
        replaces an inherited momentum too, which is SGD's alone: who asks for adam asks for its own. Raises ValueError for a
        momentum set here where adam is inherited.
        """
        own, inherited = {name: getattr(self, name) for name in self.model_fields_set}, dict(local)
        length = {name: own.pop(name, None) for name in ("epochs", "steps")}
        if any(length.values()):
            inherited |= length
        if own.get("optimizer") == "adam":
            inherited["momentum"] = 0.0
        return LocalOverrides(**inherited | own)
