"""The representations of a run's strategies, as one client can make them from its own rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from scarcity_ray.baselines.alone import Features, Map
from scarcity_ray.baselines.ridge_alone import Values
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.ensemble.representation import FourierFeatures, RandomFourier, fourier
from scarcity_ray.strategies.represented import Represented


def own_features(strategies: Sequence[Strategy], seed: int) -> dict[str, Features]:
    """By strategy: the waves that it uses, with a bandwidth from a client's own rows unless the settings give one, and the inputs beside
    them where the strategy has them there.

    The inputs themselves need no entry, and a trunk needs other clients' rows, or a file that was made from others.
    """
    settings = {one.title: fourier(one.representation) for one in strategies if isinstance(one, Represented)}
    return {title: _waves(spec, seed) for title, spec in settings.items() if spec is not None}


@lru_cache(maxsize=4)  # its random rotations cost more than a client's ridge
def _of_width_1(spec: RandomFourier, inputs: int, seed: int) -> FourierFeatures:
    return spec.waves(inputs, seed, 1.0)


def _waves(spec: RandomFourier, seed: int) -> Features:
    def make(own: Values) -> Map:
        spread = math.sqrt(2 * float(own.var(0).sum())) or 1.0
        width, waves = spread if isinstance(spec.bandwidth, str) else spec.bandwidth, _of_width_1(spec, own.shape[1], seed)

        def features(x: Values) -> Values:
            made: Values = waves(torch.from_numpy(x / width).float()).double().numpy()
            made[:, len(waves.phases) :] *= width  # inputs beside the waves, which the bandwidth is not for
            return made

        return features

    return make
