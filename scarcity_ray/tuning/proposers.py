"""What is tried next: batches of settings, as a pure function of the seed and of the results that were told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import SpecError
from scarcity_ray.scenario.tuning import TPE, Grid, Random, Range
from scarcity_ray.tuning.space import Setting, Space, drawn, grid


class Proposer(Protocol):
    """Gives one batch after the other, and is told the results of each before the next."""

    def ask(self) -> list[Setting]:
        """The next batch; empty once all has been proposed."""

    def tell(self, scores: Sequence[float | None]) -> None:
        """The results of the batch, in its order; more is better, None for a trial that diverged."""


def proposer(method: Grid | Random | TPE, space: Space, seed: int, strategy: str) -> Proposer:
    """The proposer of a strategy's search. Raises SpecError where Optuna is missing."""
    if not space:
        return _Fixed([{}])
    if isinstance(method, Grid):
        return _Fixed(grid(space, method.points))
    if isinstance(method, Random):
        return _Fixed([drawn(space, seed, strategy, trial) for trial in range(method.trials)])
    return _Optuna(method, space, seed, strategy)


class _Fixed:
    """All settings in one batch."""

    def __init__(self, settings: list[Setting]) -> None:
        self._left = settings

    def ask(self) -> list[Setting]:
        found, self._left = self._left, []
        return found

    def tell(self, scores: Sequence[float | None]) -> None:
        """Nothing is learned."""


class _Optuna:
    """Optuna as proposer alone: it stores nothing, and knows what it is told."""

    def __init__(self, method: TPE, space: Space, seed: int, strategy: str) -> None:
        try:
            import optuna
        except ImportError as error:
            message = "the package optuna is not installed: pip install 'scarcity-ray[tune]'"
            raise SpecError(("tune", "method", "kind"), "tpe", message) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        own = int(hash64(seed, "tpe " + strategy, 0, 0)) % 2**31
        sampler = optuna.samplers.TPESampler(seed=own, n_startup_trials=min(10, max(method.trials // 3, 1)), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._failed = optuna.trial.TrialState.PRUNED  # of a trial that failed TPE learns nothing; a pruned one is among the worst
        self._space = {name: self._distribution(optuna, choice) for name, choice in space.items()}
        self._values = {name: choice for name, choice in space.items() if not isinstance(choice, Range)}
        self._left, self._batch = method.trials, method.batch
        self._asked: list[Any] = []

    @staticmethod
    def _distribution(optuna: Any, choice: Any) -> Any:
        kinds = optuna.distributions
        if not isinstance(choice, Range):
            return kinds.CategoricalDistribution(tuple(range(len(choice))))  # by place: values may be of any kind
        if choice.integer:
            return kinds.IntDistribution(int(choice.low), int(choice.high), log=choice.log)
        return kinds.FloatDistribution(choice.low, choice.high, log=choice.log)

    def ask(self) -> list[Setting]:
        count = min(self._batch, self._left)
        self._left -= count
        self._asked = [self._study.ask(self._space) for _ in range(count)]
        return [
            {name: self._values[name][value] if name in self._values else value for name, value in trial.params.items()}
            for trial in self._asked
        ]

    def tell(self, scores: Sequence[float | None]) -> None:
        for trial, score in zip(self._asked, scores, strict=True):
            if score is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, score)
