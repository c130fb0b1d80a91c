"""What is printed of an ensemble: its experts, and who harms the others."""

from __future__ import annotations

import numpy as np
import torch

from scarcity_ray import Client, Server
from scarcity_ray.ensemble.representation import Identity
from scarcity_ray.report.final_table import experts_in_words
from scarcity_ray.strategies.sf_hfe import SfHfe


def learned(turned: list[int]) -> dict[str, object]:
    """What sf_hfe says of 30 clients with one truth; the labels of some are turned."""
    rng, clients = np.random.default_rng(4), []
    for m in range(30):
        x = rng.standard_normal((12, 2))
        y = x @ [2.0, -1.0] + rng.standard_normal(12)
        clients.append(Client(client_id=m, data=(x, -4 * y if m in turned else y), test=(x, y)))
    strategy = SfHfe(representation=Identity(), experts=1)
    return dict(Server(30, clients, model=torch.nn.Linear(2, 1), strategy=strategy).run_round().learned)


def test_a_client_that_harms_the_others_is_named() -> None:
    words = experts_in_words({"strategies": {"sf_hfe": {"seeds": {"0": learned([11])}}}})
    assert words == [
        "sf_hfe: one expert of 30 clients.",
        "sf_hfe: surely worse for the others because of client 11 (contribution_high below 0 in the clients table).",
    ]


def test_of_honest_clients_none_is_named() -> None:
    assert experts_in_words({"strategies": {"sf_hfe": {"seeds": {"0": learned([])}}}}) == ["sf_hfe: one expert of 30 clients."]


def test_the_chosen_features_are_named_with_the_errors_that_chose_them() -> None:
    choice = {"chosen": "identity", "usual": "both", "errors": {"identity": 0.0201, "waves": 0.03, "both": 0.0225}, "gains": {}}
    entry = {"representation": choice, "experts": [{"clients": 30}], "evidence": {"1": 0.02}}
    assert experts_in_words({"strategies": {"sf_hfe": entry}})[0] == (
        "sf_hfe: representation identity; squared error of clients' own heads on left-out rows: identity 0.0201, waves 0.03, both 0.0225 "
        "(both is used unless another is lower by a standard error)."
    )
