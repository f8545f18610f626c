"""Doing something to many Machines, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from caddisfly.client import ApiError
from caddisfly.model.errors import Problem

Item = TypeVar("Item")
Result = TypeVar("Result")


async def each(items: Iterable[Item], act: Callable[[Item], Awaitable[Result]], *, at_once: int) -> list[Result]:
    """Once one has failed no other is begun, and what is under way comes to its end. Raises the first error, with the
    others as notes."""
    errors: list[ApiError | Problem] = []
    results: list[Result] = []
    turn = asyncio.Semaphore(at_once)

    async def one(item: Item) -> None:
        async with turn:
            if errors:
                return
            try:
                results.append(await act(item))
            except (ApiError, Problem) as error:
                errors.append(error)

    await asyncio.gather(*(one(item) for item in items))
    if errors:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]
    return results
