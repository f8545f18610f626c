"""The public SDK of the Machines API, ours or Fly's: `Client` and `AsyncClient`.

    from caddisfly.client import Client

    with Client("http://127.0.0.1:4280", token="...") as client:
        machine = client.machines.create("hello", {"image": "nginx"})
        client.machines.wait("hello", machine["id"], "started")

Replies are the API's own JSON, as dictionaries: a newer server's fields are there without a newer SDK. Errors are
classes, and deriving from `RetryableError` says whether trying again can help.
"""

from caddisfly.client.asynchronous import AsyncClient
from caddisfly.client.errors import (
    ApiError,
    ConflictError,
    ConnectionFailed,
    FinalError,
    ForbiddenError,
    LeaseHeldError,
    NotFoundError,
    PreconditionError,
    RetryableError,
    TimedOut,
    UnauthorizedError,
)
from caddisfly.client.synchronous import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ConflictError",
    "ConnectionFailed",
    "FinalError",
    "ForbiddenError",
    "LeaseHeldError",
    "NotFoundError",
    "PreconditionError",
    "RetryableError",
    "TimedOut",
    "UnauthorizedError",
]
