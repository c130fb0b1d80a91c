"""The settings of models in YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from scarcity_ray.core.spec import Spec


class Linear(Spec):
    """One layer: linear or logistic regression. Inputs of more than one dimension are flattened."""

    kind: Literal["linear"] = "linear"
    bias: Annotated[bool, Field(description="whether outputs have an intercept")] = True


class MLP(Spec):
    """Fully connected layers. Inputs of more than one dimension are flattened."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[
        list[Annotated[int, Field(ge=1)]], Field(min_length=1, default_factory=lambda: [32], description="units of each hidden layer")
    ]
    activation: Annotated[Literal["relu", "tanh"], Field(description="after each hidden layer")] = "relu"


class CNN(Spec):
    """The convolutional network of the FedAvg paper (McMahan et al., AISTATS 2017, section 3).

    Two 5 x 5 convolutions ('same' padding), each with ReLU and 2 x 2 max pooling, a hidden layer, the output layer.
    Inputs are `[channels, height, width]`, `[height, width]`, or flat and square (one channel).
    """

    kind: Literal["cnn"] = "cnn"
    channels: Annotated[
        list[Annotated[int, Field(ge=1)]],
        Field(min_length=1, default_factory=lambda: [32, 64], description="channels of each convolution; each halves the image"),
    ]
    hidden: Annotated[int, Field(ge=1, description="units of the hidden layer")] = 512


class Import(Spec):
    """The user's own module: `factory(**args)` must return a torch.nn.Module."""

    kind: Literal["import"] = "import"
    path: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$", description="package.module:factory")]
    args: Annotated[dict[str, Any], Field(default_factory=dict, description="keyword arguments of the factory")]
