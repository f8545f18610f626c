"""Which machines a list should have: what the lists of an app and of an organization may be asked for alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from caddisfly.control.rest import wire
from caddisfly.model import states
from caddisfly.model.machine import Machine


@dataclass(frozen=True, slots=True)
class Selection:
    """No `region` and no `states` mean any."""

    deleted: bool
    region: str
    states: frozenset[str]

    def takes(self, machine: Machine) -> bool:
        return (
            (self.deleted or machine.state != states.DESTROYED)
            and (not self.region or machine.region == self.region)
            and (not self.states or machine.state in self.states)
        )


async def selection(
    include_deleted: Annotated[str, Query(description="true also lists destroyed machines.")] = "",
    region: str = "",
    state: Annotated[str, Query(description="States, separated by commas.")] = "",
) -> Selection:
    """Raises `InvalidArgument`."""
    wanted = frozenset(word.strip() for word in state.split(",") if word.strip())
    return Selection(wire.flag(include_deleted, "include_deleted"), region, wanted)


Selected = Annotated[Selection, Depends(selection)]
