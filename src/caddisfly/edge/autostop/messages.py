"""What edge workers say to each other. Every worker hears every question and answers for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import Method, Reply, Request, decode, encode

EDGES = "edges"
"""Prefix of the questions to all of them."""


class Message(BaseModel):
    """Unknown members are ignored, so that a fleet can be upgraded host by host."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    pass


class Load(Message):
    """What a worker has for one service of one run."""

    run_id: str
    port: int
    load: int
    peak: int
    idle_s: float


class Loads(Message):
    """Of all Machines that this worker has had requests for. All others have nothing to do here."""

    worker: str
    loads: tuple[Load, ...]


class Leave(Message):
    """May this run be stopped? `drain_s`: how long to wait for what is under way. 0: not at all, it is the last one.

    With `part`, WebSockets are told that the app goes away, and closed.
    """

    machine_id: str
    run_id: str
    grant: str
    drain_s: float = 0.0
    part: bool = False


class Vote(Message):
    """`refusal` says why not; empty when the worker agrees and sends it nothing from now on.

    `websockets` are all that is left under way. Who agrees with some wants to be asked again, to part from them.
    """

    worker: str
    refusal: str = ""
    websockets: int = 0


class Stay(Message):
    """What was asked for with this grant is called off."""

    machine_id: str
    grant: str


SHOW_LOADS = Method("loads", Nothing, Loads, 2)
LEAVE = Method("leave", Leave, Vote, 2)
STAY = Method("stay", Stay, Nothing, 2)

Answer = TypeVar("Answer", Loads, Vote)


async def ask_all(
    bus: Bus, method: Method[Request, Answer], request: Request, *, workers: int, timeout_s: float
) -> Sequence[Answer]:
    """Their answers, those that came in time. Raises `Unavailable` when the bus is away, or what a worker raised."""
    payload = encode(request, timeout_s=timeout_s)
    answers = await bus.gather(f"{EDGES}.{method.name}", payload, enough=workers, timeout_s=timeout_s)
    return [decode(method, answer) for answer in answers]


async def tell_all(bus: Bus, method: Method[Request, Reply], request: Request) -> None:
    """Without an answer. Raises `Unavailable` when the bus is away."""
    await bus.publish(f"{EDGES}.{method.name}", encode(request, timeout_s=method.timeout_s))
