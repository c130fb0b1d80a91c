"""Representations: the fixed features on which heads are linear. For a seeded one only the seed and a bandwidth are sent."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.randomness import hash64, stream
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.training.problem import Problem

INPUTS = 0.5
"""Inputs beside waves are multiplied by this over sqrt(d). If they are standardised their squares then sum to 0.25 in the mean, and those
of waves to 1, so that one ridge strength fits both. Their kernel is the Gaussian one plus `0.25 x . x' / d`."""

_FEWER = 4
"""Automatic tries the first `1 / _FEWER` of the waves too."""

_AUTO = 8
"""Features for each input, at least, for `auto` to have inputs among them. At four (digits) they cost more waves than they are worth."""


class FourierFeatures(nn.Module):
    """`sqrt(2 / features) * cos(frequencies x + phases)`: inputs `[n, *shape]` -> `[n, features]`.

    The product of two inputs' features estimates the Gaussian kernel `exp(-|x - x'|^2 / (2 bandwidth^2))` (Rahimi and
    Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007). Frequencies are orthogonal within blocks as
    large as the input, which gives a better estimate (Yu et al., "Orthogonal Random Features", NeurIPS 2016). Each
    frequency has a random phase in place of a cosine and a sine: this gives twice the frequencies for the same number of
    features. On digits (100 clients of 8 images, 256 features, 5 seeds) the accuracy is 0.977, and 0.974 with pairs.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, inputs: int, features: int, seed: int = 0, bandwidth: float = 1.0) -> None:
        super().__init__()
        rng = stream(seed, "fourier features")
        blocks = []
        for start in range(0, features, inputs):
            # The first columns of a random rotation, each with the length of a random Gaussian vector.
            gauss = torch.from_numpy(rng.standard_normal((inputs, min(inputs, features - start))))
            q, r = torch.linalg.qr(gauss)
            length = torch.from_numpy(np.sqrt(rng.chisquare(inputs, gauss.shape[1])))
            blocks.append((q * r.diagonal().sign() * length).T)
        self.register_buffer("frequencies", (torch.cat(blocks) / bandwidth).float())
        self.register_buffer("phases", torch.from_numpy(rng.uniform(0, 2 * math.pi, features)).float())

    def forward(self, x: Tensor) -> Tensor:
        """The features of each input."""
        waves = nn.functional.linear(x.flatten(1), self.frequencies, self.phases)
        return waves.cos_().mul_(math.sqrt(2 / len(self.phases)))


class WavesAndInputs(FourierFeatures):
    """FourierFeatures, then the inputs themselves times `INPUTS / sqrt(d)`: inputs `[n, *shape]` -> `[n, features + d]`.

    A line takes many waves, and ends where the rows end; with the inputs beside them the waves need only fit what is left of it.
    centre: `[d]`, subtracted from inputs first, 0 if left out.
    """

    centre: Tensor

    def __init__(self, inputs: int, features: int, seed: int = 0, bandwidth: float = 1.0, centre: Tensor | None = None) -> None:
        super().__init__(inputs, features, seed, bandwidth)
        self.register_buffer("centre", torch.zeros(inputs) if centre is None else centre.float())

    def forward(self, x: Tensor) -> Tensor:
        """The features of each input."""
        rows = x.flatten(1) - self.centre
        return torch.cat([super().forward(rows), rows * (INPUTS / math.sqrt(rows.shape[1]))], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}centre", torch.zeros_like(self.centre))  # older models have none
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CentredInputs(nn.Module):
    """Inputs `[n, *shape]` less a centre `[d]`: `[n, d]`."""

    centre: Tensor

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre.float())

    def forward(self, x: Tensor) -> Tensor:
        """The features of each input."""
        return x.flatten(1) - self.centre


class Identity(Spec):
    """The inputs themselves, flattened.

    Inputs far from 0 lose digits in float32 moments, and let clients' heads differ about 0 and not about where the data lie: with 30
    clients of 15 rows whose slopes differ, inputs ten deviations from 0 raised the error twofold, and a thousand tenfold. Tables are
    standardised; for arrays there is `centre`.
    """

    kind: Literal["identity"] = "identity"
    centre: Annotated[bool, Field(description="subtract the mean input first (one more message, a survey)")] = False
    rounds: ClassVar[int] = 0

    @property
    def asked(self) -> tuple[str, ...]:
        """The messages that clients send before the centre is known."""
        return ("survey",) if self.centre else ()

    def width(self, problem: Problem) -> int:
        """Number of features of one input. problem: the scenario's problem."""
        return math.prod(problem.shape)

    def module(self, problem: Problem, shared: Mapping[str, Any]) -> nn.Module:
        """The map as a torch module, `[n, *shape]` -> `[n, width]`. shared: values that all clients have received, by name."""
        return CentredInputs(torch.as_tensor(shared.get("centre", torch.zeros(self.width(problem))))) if self.centre else nn.Flatten()


_Bandwidth = Annotated[
    Literal["spread", "evidence"] | Annotated[float, Field(gt=0)],
    Field(description="kernel width. spread: by the inputs; evidence: predicts left-out clients best (one more message); or a number"),
]


class RandomFourier(Spec):
    """Orthogonal random Fourier features, and the inputs beside them. The bandwidth is set, or comes from clients' summed second
    moments or their pilots; it is that of the waves alone.

    For the same number of features, 256, means of 4 seeds, waves alone and with the inputs (their number) beside them. Root mean
    square error: AER/Fatalities (7) 122 and 110, mlmRev/Mmmec (2) 17.2 and 15.0, plm/Produc (8) 2477 and 2203, plm/Cigar (7) 5.80 and
    5.98, nlme/BodyWeight (1) 5.60 and 5.46. Log loss: wine (13) 0.081 and 0.076, cancer (30) 0.094 and 0.097, digits (64) 0.065 and 0.074:
    where inputs take many waves' places and the truth is no line, waves alone are better.

    Privacy: with inputs among the features a client's moments show the mean input of each of its classes, and inputs' covariances.
    """

    kind: Literal["random_fourier"] = "random_fourier"
    features: Annotated[int, Field(ge=1, le=8192, description="number of features, inputs among them; bytes up grow with its square")] = 256
    inputs: Annotated[
        Literal["auto"] | bool,
        Field(description="inputs are features themselves, and waves the others; auto: where they are at most an eighth of them"),
    ] = "auto"
    bandwidth: _Bandwidth = "spread"
    rounds: ClassVar[int] = 0

    @property
    def asked(self) -> tuple[str, ...]:
        """The messages that clients send before the bandwidth is known."""
        return {"spread": ("survey",), "evidence": ("survey", "pilot")}.get(str(self.bandwidth), ())

    def width(self, problem: Problem) -> int:
        """As Identity.width. Raises SpecError where the inputs leave no feature for a wave."""
        inputs = math.prod(problem.shape)
        if self.inputs is True and inputs >= self.features:
            why = f"a row has {inputs} inputs, and they leave no wave among {self.features} features"
            remedy = f"features above {inputs}, or auto, which leaves inputs out here; for inputs alone: {{kind: identity}}"
            raise SpecError(("representation", "inputs"), True, f"{why}; allowed: {remedy}")
        return self.features

    def module(self, problem: Problem, shared: Mapping[str, Any]) -> nn.Module:
        """As Identity.module. shared: "bandwidth", unless the settings give a number; "centre", where inputs lie far from 0."""
        default = 1.0 if isinstance(self.bandwidth, str) else self.bandwidth
        return self.waves(math.prod(problem.shape), problem.seed, float(shared.get("bandwidth", default)), shared.get("centre"))

    def waves(self, inputs: int, seed: int, bandwidth: float, centre: Tensor | None = None) -> FourierFeatures:
        """The map for rows of so many inputs. seed: the run's. centre: of inputs that are among the features."""
        own = int(hash64(seed, "representation"))
        if not self.beside(inputs):
            return FourierFeatures(inputs, self.features, own, bandwidth)
        return WavesAndInputs(inputs, self.features - inputs, own, bandwidth, centre)

    def beside(self, inputs: int) -> bool:
        """Whether so many inputs are among the features."""
        return _AUTO * inputs <= self.features if self.inputs == "auto" else self.inputs


class Automatic(Spec):
    """The inputs, random Fourier features (waves), both, or the inputs and a quarter of the waves: whichever predicts clients' left-out
    rows best, see ensemble.choice.

    A client sends the moments of all features, once, and in a further round four numbers. So `features` bounds the bytes up, and the
    choice what is learned from them. Waves alone are those that are beside the inputs, so they are fewer than the features. The
    usual block, which another must clearly beat, is that of random_fourier.

    Fewer waves help where clients' slopes differ: the variance that slopes need is that of each wave's coefficient too. With a slope of
    each client's own and one slow wave (2 inputs, 256 features, 6 seeds) a quarter of them is chosen in all, and the error is 0.78 +-
    0.03 times that of all waves (30 clients of 8 rows), and 0.90 +- 0.02 (40 of 15). For a fast wave all are kept where rows suffice to
    learn it. On ten real federations the choice of fewer changed the error by less than 0.1 % in the mean.

    Privacy: as of random_fourier with inputs, whatever is chosen; and the four numbers say how well a client's rows can be predicted.
    """

    kind: Literal["auto"] = "auto"
    features: Annotated[int, Field(ge=2, le=8192, description="inputs and waves together; bytes up grow with its square")] = 256
    bandwidth: _Bandwidth = "spread"
    rounds: ClassVar[int] = 0

    @property
    def both(self) -> RandomFourier:
        """All the features that clients send moments of."""
        return RandomFourier(features=self.features, inputs=True, bandwidth=self.bandwidth)

    @property
    def asked(self) -> tuple[str, ...]:
        """As RandomFourier.asked."""
        return self.both.asked

    def width(self, problem: Problem) -> int:
        """As Identity.width. Raises SpecError where the inputs leave no feature for a wave."""
        inputs = math.prod(problem.shape)
        if inputs >= self.features:
            why = f"a row has {inputs} inputs, and {self.features} features hold no wave beside them to compare them with"
            message = f"{why}; allowed: features above {inputs}, or {{kind: random_fourier}}, which leaves inputs out here"
            raise SpecError(("representation", "features"), self.features, message)
        return self.features

    def module(self, problem: Problem, shared: Mapping[str, Any]) -> nn.Module:
        """As Identity.module, of both. shared: as RandomFourier.module."""
        return self.both.module(problem, shared)

    def blocks(self, problem: Problem) -> tuple[dict[str, NDArray[np.int64]], str]:
        """What may be chosen: by name, the places of its features; and the name of the usual block."""
        inputs, places = math.prod(problem.shape), np.arange(self.features)
        waves, beside = np.split(places, [self.features - inputs])
        fewer = -(-len(waves) // _FEWER)
        usual = "both" if RandomFourier(features=self.features).beside(inputs) else "waves"
        return {"identity": beside, "waves": waves, "both": places, f"both_{fewer}": np.append(waves[:fewer], beside)}, usual


class Trunk(Spec):
    """The scenario's model (or the strategy's) without its last linear layer: the features are the inputs of that layer.

    Its weights come from the seed alone, from a file, or from some rounds of FedAvg before the insights. In these rounds
    clients send their weights, and the bytes are counted. Weights from a file or from training are sent to each client once.
    """

    kind: Literal["trunk"] = "trunk"
    weights: Annotated[str | None, Field(description="safetensors file of the whole model's weights; null: drawn from the seed")] = None
    rounds: Annotated[int, Field(ge=0, description="rounds of fed_avg, with the strategy's local training, that train it first")] = 0
    asked: ClassVar[tuple[str, ...]] = ()

    def width(self, problem: Problem) -> int:
        """As Identity.width."""
        return _cut(problem.module)[1]

    def module(self, problem: Problem, shared: Mapping[str, Any]) -> nn.Module:
        """As Identity.module. shared: "trunk", the whole model's row of weights `[P]`; without it the initial row is used."""
        whole = copy.deepcopy(problem.module)
        if "trunk" in shared:
            whole.load_state_dict(problem.layout.state_dict(torch.as_tensor(shared["trunk"])))
        return _cut(whole)[0].eval()

    def load(self, problem: Problem) -> Tensor:
        """The row of weights `[P]` from the file. Raises SpecError if its tensors do not fit the model."""
        field = ("representation", "weights")
        try:
            state = load_file(str(self.weights))
            copy.deepcopy(problem.module).load_state_dict(state)
        except (OSError, SafetensorError) as error:
            raise SpecError(field, self.weights, f"the file cannot be read: {error}") from None
        except RuntimeError as error:
            raise SpecError(field, self.weights, f"its tensors do not fit the model: {' '.join(str(error).split())}") from None
        return problem.layout.row(state)


def _cut(module: nn.Module) -> tuple[nn.Module, int]:
    """A copy of the module without its last linear layer, and the number of inputs of that layer. Raises SpecError without such a layer."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names or not names[-1]:
        message = "a trunk is the part of a model before its last linear layer; this model has no such part"
        raise SpecError(("model",), type(module).__name__, message)
    cut = copy.deepcopy(module)
    parent, _, last = names[-1].rpartition(".")
    width = cut.get_submodule(names[-1]).get_parameter("weight").shape[1]
    setattr(cut.get_submodule(parent), last, nn.Identity())
    return cut, width


Representation = Annotated[Identity | RandomFourier | Automatic | Trunk, Field(discriminator="kind")]


def fourier(representation: Identity | RandomFourier | Automatic | Trunk) -> RandomFourier | None:
    """The random features that a representation has; None where it has none."""
    if isinstance(representation, Automatic):
        return representation.both
    return representation if isinstance(representation, RandomFourier) else None


def features(representation: nn.Module, shards: Shards, width: int) -> Shards:
    """The shards with each row's features `[width]` in place of its inputs.

    Features are computed one client at a time: the bits of a product depend on its number of rows, and a client's features
    must not depend on the other clients in the shards.
    """
    x = np.empty((len(shards.x), width), dtype=np.float32)
    with torch.no_grad():
        for client in np.flatnonzero(shards.counts).tolist():
            rows = shards.rows(client)
            x[rows] = representation(torch.from_numpy(shards.x[rows])).numpy()
    return Shards(x, shards.y, shards.starts)


def survey(x: Tensor) -> Tensor:
    """A client's message before the bandwidth is known: the sum of its inputs `[n, *shape]`, and their squared distances from its mean.

    Float32 `[d + 1]`. So the spread keeps its digits however far from 0 inputs lie. The message reveals the client's mean input and its
    total variance to the receiver.
    """
    rows = x.flatten(1).double()
    return torch.cat([rows.sum(0), (rows - rows.mean(0)).square().sum()[None]]).nan_to_num().float()  # no rows have no mean


def centre(surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean input of all rows, `[d]`, from surveys `[k, d + 1]` of clients with `samples [k]` rows."""
    mean: NDArray[np.float64] = surveys[:, :-1].sum(0, dtype=np.float64) / float(samples.sum())
    return mean


def spread(surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> float:
    """The mean squared distance of a row from the mean of all, tr Cov: within clients, and between their means."""
    rows = samples.astype(np.float64)
    means = surveys[:, :-1].astype(np.float64) / np.maximum(rows, 1)[:, None]
    between = float(rows @ np.square(means - centre(surveys, samples)).sum(1))
    return (float(surveys[:, -1].sum(dtype=np.float64)) + between) / float(rows.sum())


def far(surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> bool:
    """Whether inputs lie farther from 0 than from each other."""
    return float(np.square(centre(surveys, samples)).sum()) > spread(surveys, samples)


def bandwidth(surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> float:
    """The kernel's bandwidth `sqrt(2 tr Cov)` from surveys `[k, d + 1]` of clients with `samples [k]` rows.

    2 tr Cov is the mean squared distance between two rows of the pooled data. This replaces the median rule, for which
    clients would have to share distances. Rounded to float32, as it is sent; 1 if all rows are equal.
    """
    found = spread(surveys, samples)
    noise = 1e-13 * float(np.square(centre(surveys, samples)).sum())  # float32 means determine a distance between clients no more exactly
    return float(np.float32(math.sqrt(2 * found))) if found > noise else 1.0
