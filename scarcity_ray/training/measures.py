"""What a client can say of a round's local training in a few numbers: the scalar part of an insight, and its uncertainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Shards
from scarcity_ray.training.evaluate import evaluate
from scarcity_ray.training.task import Task


def uncertainty(task: Task, theta: Tensor, loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """How little a model says of the labels of the client's own training rows, from 0 (all) to 1, float64 `[k]`.

    Classification: the mean entropy of the predicted class distribution over log(classes) (Shannon, 1948; as a measure
    of a model's uncertainty: Settles, "Active Learning Literature Survey", 2009, section 3.1): 1 is the uniform
    distribution. It speaks of the predictions alone, a model may be certain and wrong.

    Regression: noise / (noise + signal), noise being the mean squared residual (`loss`, `[k]`, at theta over the training
    rows) and signal the variance of the labels: for Gaussian predictions their ratio is that of the entropy powers of
    the label with and without the model (Shannon, 1948). One half is a model that says as much as the mean label.
    """
    if task.problem.task == "classification":
        share: NDArray[np.float64] = task.predictive_entropy(theta) / np.log(max(task.problem.outputs, 2))
        return np.minimum(share, 1.0, out=share)
    shards = task.shards
    signal = np.array([np.var(shards.y[shards.rows(client)], axis=0, dtype=np.float64).mean() for client in task.ids.tolist()])
    share = np.zeros_like(loss)
    with np.errstate(invalid="ignore"):  # a diverged model's
        np.divide(loss, loss + signal, out=share, where=loss != 0)
    return share


def scalar_columns(
    task: Task, before: Tensor | None, after: Tensor | None, seconds: float, validation: Shards | None = None
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """The scalar part of k clients' insights, without run, round and what is derived: arrays `[k]` for `insights.make`.

    before, after: the rows of parameters, `[1 or k, P]`, that the clients had and have; the problem's initial row where
    there is no model yet. seconds: wall clock of the training, a client. Losses are over the training rows, or over the
    validation rows of a client that has some. Steps and gradient norms are 0 where there was no local training (and
    need `norms=True` in the task where there was). A client that diverged has values that are not finite: the gate
    refuses them.
    """
    rows = {name: task.problem.row[None] if theta is None else theta for name, theta in (("before", before), ("after", after))}
    losses = {name: task.loss(theta) for name, theta in rows.items()}
    noise = losses["after"]
    if validation is not None:
        held = validation.counts[task.ids] > 0
        losses = {
            name: np.where(held, evaluate(task.problem, theta, validation, task.ids)[0], losses[name]) for name, theta in rows.items()
        }
    trained = ~np.isnan(task.train_loss)
    steps = np.where(trained, task.plan.steps, 0)
    mean, std = (np.where(trained, norms, 0.0) for norms in task.grad_norms)
    return {
        "client_id": task.ids,
        "expert_id": np.zeros(task.k, dtype=np.int64),
        "num_samples": task.plan.counts,
        "steps": steps,
        "lr": task.lr[:, 0].double().numpy(),
        "epochs": steps / task.plan.epoch_steps,
        "mean_grad": mean,
        "std_grad": std,
        "uncertainty": uncertainty(task, rows["after"], noise),
        "loss_before": losses["before"],
        "loss_after": losses["after"],
        "train_seconds": np.full(task.k, seconds),
    }
