"""The ensemble that SF-HFE learns: experts on one representation, a router that selects among them, and clients' own heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.ensemble.density import Densities
from scarcity_ray.ensemble.gate import Gate
from scarcity_ray.ensemble.mixture import Mixture, mix_classes, mix_targets
from scarcity_ray.ensemble.moments import Moments, targets, with_constant
from scarcity_ray.ensemble.personal import log_likelihood, personal_head, posterior_covariance
from scarcity_ray.ensemble.ridge import rows_of
from scarcity_ray.ensemble.router import Router
from scarcity_ray.training.objective import TaskKind

_SAVED = ("heads", "whole", "scale", "noise", "scatters", "covariances", "expert_id", "client_id")


@dataclass(frozen=True)
class Ensemble:
    """K experts, w features with the constant, o outputs, M clients. All tensors are float64, ids are int64.

    heads: `[K, w, o]`, the experts' heads.
    whole: `[w, o]`, one head for all clients together.
    scale: `[K]`, divisor that turns scores into logits (1 for targets).
    noise: `[K]`, variance of an output about the prediction of its client's head.
    scatters: `[K, w]` or `[K, w, w]`, diagonal or full covariance of clients' heads about their expert's, relative to the noise.
    covariances: `[K, w, w]`, posterior covariance of each expert's head, relative to the noise.
    expert_id, client_id: `[M]`, each client's expert and the client's id.
    personal: `[M, w, o]`, clients' own heads; None if all clients of an expert use the expert's head.
    """

    representation: nn.Module
    task: TaskKind
    router: Densities | Gate
    heads: Tensor
    whole: Tensor
    scale: Tensor
    noise: Tensor
    scatters: Tensor
    covariances: Tensor
    expert_id: Tensor
    client_id: Tensor
    personal: Tensor | None = None

    def features(self, x: Tensor) -> Tensor:
        """The features `[n, w]` of inputs `[n, *shape]`, the constant last."""
        with torch.no_grad():
            return with_constant(self.representation(torch.as_tensor(x, dtype=torch.float32)).double())

    def route(self, f: Tensor) -> NDArray[np.float64]:
        """The router's scores `[n, K]` for features `[n, w]`. They depend on the input alone."""
        return self.router.scores(f[:, :-1]).numpy()

    def outputs(self, f: Tensor, heads: Tensor | None = None) -> Tensor:
        """The predictions of each expert for features, `[n, K, o]`: targets, or logits. heads: other heads to use, `[K, w, o]`."""
        return torch.einsum("nw,kwo->nko", f, self.heads / self.scale[:, None, None] if heads is None else heads)

    def predict(self, x: Tensor, client: int | None = None, top: int | None = None) -> tuple[Mixture, Tensor]:
        """The mixed prediction for inputs `[n, *shape]`, and the weights of the experts `[n, K]`.

        client: the id of the client that the rows belong to; its own head predicts. Without it the router weights the `top`
        best experts of each input (None: all experts).
        Raises KeyError for an unknown client.
        """
        f = self.features(x)
        if client is None:
            weights = torch.from_numpy(Router(len(self.heads)).weights(self.route(f), k=top))
            return self._mix(f, self.outputs(f), weights, self._whole_scatters() + self.covariances), weights
        return self.answer(f, *self.of_client(client))

    def answer(self, f: Tensor, expert: int, head: Tensor, covariance: Tensor | None = None) -> tuple[Mixture, Tensor]:
        """The prediction of a client's own head `[w, o]` for features, and the weights `[n, K]`, all on its expert.

        covariance: the posterior covariance of the head, `[w, w]`; None: the scatter of heads about the expert's is used.
        """
        weights = torch.zeros(len(f), len(self.heads), dtype=torch.float64)
        weights[:, expert] = 1.0
        own = self._whole_scatters()[expert] if covariance is None else covariance
        outputs = self.outputs(f, head[None] / self.scale[expert]).expand(-1, len(self.heads), -1)
        return self._mix(f, outputs, weights, own.expand(len(self.heads), -1, -1)), weights

    def of_client(self, client: int) -> tuple[int, Tensor]:
        """A client's expert and its head `[w, o]`. Raises KeyError for an unknown client."""
        place = torch.nonzero(self.client_id == client).flatten().tolist()
        if not place:
            raise KeyError(client)
        expert = int(self.expert_id[place[0]])
        return expert, self.heads[expert] if self.personal is None else self.personal[place[0]]

    def join(self, x: Tensor, y: Tensor) -> tuple[int, Tensor, Tensor]:
        """A new client's expert, its own head `[w, o]` and the head's covariance `[w, w]`, from its labelled rows: what `answer` takes.

        x: inputs `[n, *shape]`, y: classes `[n]` or targets `[n, o]`, n at least 1. Nothing is trained again. The expert is the one
        with the highest likelihood of the rows. The head is the posterior mean; the covariance is the posterior's, relative to the noise.
        """
        f, z = self.features(x), targets(torch.as_tensor(y), self.task, self.heads.shape[2])
        likelihoods = [float(log_likelihood(f, z, *expert)) for expert in zip(self.heads, self.scatters, self.noise.tolist(), strict=True)]
        best = int(np.argmax(likelihoods))
        scatter = self.scatters[best]
        return best, personal_head(f, z, self.heads[best], scatter), posterior_covariance(f, scatter)

    def own_answers(self, shards: Shards, most: int) -> tuple[Tensor, Tensor]:
        """The predictions of clients' own heads for their rows (class probabilities or targets, `[n, o]`), and the true labels.

        most: a limit to save time. Clients are taken in the order of their ids until they have this many rows together.
        """
        found = []
        for client in self.client_id.tolist():
            rows = shards.rows(client)
            if rows.stop > rows.start:
                mixture, _ = self.answer(self.features(torch.from_numpy(shards.x[rows])), *self.of_client(client))
                found.append((mixture.mean, torch.from_numpy(shards.y[rows])))
            if rows.stop >= most:
                break
        answers, truth = zip(*found, strict=True)
        return torch.cat(answers), torch.cat(truth)

    def own_head(self, expert: int, moments: Moments) -> tuple[Tensor, Tensor]:
        """A client's own head `[w, o]` under an expert, and its covariance `[w, w]` relative to the noise, from its moments `[1, ...]`."""
        rows, scatter = rows_of(moments), self.scatters[expert]
        head = personal_head(rows.features[0], rows.targets[0], self.heads[expert], scatter)
        return head, posterior_covariance(rows.features[0], scatter)

    @classmethod
    def of(cls, representation: nn.Module, task: TaskKind, tensors: Mapping[str, Tensor]) -> Ensemble:
        """The ensemble from the tensors of a model file that `sf_hfe` saved, with clients' own heads if the file has them."""
        own = {name.removeprefix("ensemble."): value for name, value in tensors.items() if name.startswith("ensemble.")}
        parts = {name: own[name] for name in _SAVED}
        personal = None
        if tensors["head.weight"].dim() == 3:
            rows = torch.cat([tensors["head.weight"].mT, tensors["head.bias"][:, None]], dim=1).double()
            personal = rows * parts["scale"][parts["expert_id"]][:, None, None]
        router = (Gate if "gate.head" in own else Densities).from_tensors(own)
        return cls(representation.eval(), task, router, **parts, personal=personal)

    def _whole_scatters(self) -> Tensor:
        return torch.diag_embed(self.scatters) if self.scatters.dim() == 2 else self.scatters

    def _mix(self, f: Tensor, outputs: Tensor, weights: Tensor, covariances: Tensor) -> Mixture:
        if self.task == "classification":
            return mix_classes(outputs.softmax(-1), weights)
        spread = self.noise * (1 + torch.einsum("nw,kwv,nv->nk", f, covariances, f))
        return mix_targets(outputs, spread[..., None].expand_as(outputs), weights)
