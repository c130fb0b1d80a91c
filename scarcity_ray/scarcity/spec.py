"""The settings of `scarcity`: what is scarce in the clients' world. Each part may be left out, and then it has no limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.spec import Spec
from scarcity_ray.scarcity.availability import Always, Availability
from scarcity_ray.scarcity.draws import ColumnDraw, Draw, LogNormalDraw, LogNormalLaw

Share = Annotated[float, Field(ge=0, lt=1)]


class Samples(Spec):
    """Labelled rows are few."""

    maximum: Annotated[int, Field(ge=1, description="training rows that a client uses at most, a sample by its id")]


class Compute(Spec):
    """Devices are slow.

    The default speeds have the spread of the phones of FLASH (Yang et al., "Characterizing Impacts of Heterogeneity in Federated Learning
    upon Large-Scale Smartphone Data", WWW 2021): 0.63, 1.76 and 5.8 GFLOP/s for a CNN on low, middle and high phones.
    """

    speed: Annotated[Draw, Field(description="a client's effective GFLOP/s (1e9 operations a second)")] = LogNormalDraw(
        lognormal=LogNormalLaw(median=1.0, sigma=0.52, minimum=0.05, maximum=50.0)
    )
    jitter: Annotated[float, Field(ge=0, le=5, description="standard deviation of the logarithm of its speed from round to round")] = 0.0
    memory: Annotated[Draw | None, Field(description="MiB; whose training needs more takes part in no round; null: enough")] = None


class Network(Spec):
    """Links are slow.

    The default downlinks are those of MobiPerf's WiFi users as FedScale has them (second-hand): median 6.1 Mbit/s, 5 % below 1. The
    ratio of the links and the jitter are those of the WiFi of 19 users in FLASH.
    """

    downlink: Annotated[Draw, Field(description="a client's Mbit/s down (1e6 bit/s)")] = LogNormalDraw(
        lognormal=LogNormalLaw(median=6.1, sigma=1.1, minimum=0.1, maximum=200.0)
    )
    uplink_ratio: Annotated[Draw, Field(description="its rate up as a share of its rate down")] = 0.71
    latency: Annotated[Draw, Field(description="seconds before each message, down and up")] = 0.0
    jitter: Annotated[float, Field(ge=0, le=5, description="standard deviation of the logarithm of its rates from round to round")] = 0.36


class Dropout(Spec):
    """Clients fail in a round, each by itself."""

    before: Annotated[Share, Field(description="share lost after the download, before the work")] = 0.0
    after: Annotated[Share, Field(description="share of the others lost after the work, before the upload")] = 0.0


class Energy(Spec):
    """Batteries are small.

    The default power is that of a phone at work, 3.5 to 6.5 W, and a byte over WiFi takes 130 nJ a bit (both second-hand). 4G takes more.
    """

    power: Annotated[Draw, Field(description="watts while a client computes")] = 5.0
    idle: Annotated[Draw, Field(description="watts all the time, beside `power` while a client computes")] = 0.0
    per_byte: Annotated[Draw, Field(description="joules a byte, up and down")] = 1.04e-6
    battery: Annotated[Draw | None, Field(description="joules of a full battery, as it is at first; null: mains")] = None
    recharge: Annotated[Draw, Field(description="watts that fill the battery all the time")] = 0.0


class Budget(Spec):
    """What each client may spend in the whole run. Who cannot pay for a round takes part in no more."""

    uplink_bytes: Annotated[Draw | None, Field(description="bytes up; null: no limit, as for all of these")] = None
    downlink_bytes: Annotated[Draw | None, Field(description="bytes down")] = None
    joules: Annotated[Draw | None, Field(description="energy")] = None
    seconds: Annotated[Draw | None, Field(description="seconds of a client's own time in rounds")] = None
    rounds: Annotated[Draw | None, Field(description="rounds")] = None


class Scarcity(Spec):
    """The world of a run: what clients lack. The server's answer to it (over_selection, round_deadline, late, ...) is the strategy's."""

    samples: Annotated[Samples | None, Field(description="training rows; null: all")] = None
    compute: Annotated[Compute | None, Field(description="devices' speed and memory; null: work takes no time")] = None
    network: Annotated[Network | None, Field(description="links; null: messages take no time")] = None
    availability: Annotated[Availability, Field(description="who is there when")] = Always()
    dropout: Annotated[Dropout | None, Field(description="who fails in a round; null: nobody")] = None
    energy: Annotated[Energy | None, Field(description="power and batteries; null: energy is not counted")] = None
    budget: Annotated[Budget | None, Field(description="what a client may spend; null: anything")] = None
    deadline: Annotated[float | None, Field(gt=0, description="seconds of simulated time after which a run ends; null: never")] = None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.budget is not None and self.budget.joules is not None and self.energy is None:
            raise ValueError("budget.joules needs energy: without it no energy is counted; energy: {} takes the defaults")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the user's table that draws name, each once."""
        return tuple(dict.fromkeys(draw.column for draw in _draws(self) if isinstance(draw, ColumnDraw)))


def _draws(spec: BaseModel) -> Iterator[BaseModel]:
    """All settings within settings."""
    yield spec
    for name in type(spec).model_fields:
        if isinstance(value := getattr(spec, name), BaseModel):
            yield from _draws(value)
