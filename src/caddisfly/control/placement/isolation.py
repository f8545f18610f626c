"""Which organizations may have their Machines in what: the operator's word, which no client can change.

Control sends what is allowed with the call for bids and with the create, and holds each bid against it, so that a host
of an older version, which knows nothing of all this, gets no Machine that it might put into the wrong thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from caddisfly.bus.contract import Bid
from caddisfly.model.isolation import CLASSES, Isolation


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Allowed = Annotated[tuple[Isolation, ...], BeforeValidator(_one_or_several), Field(min_length=1, max_length=16)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class IsolationSettings(BaseModel):
    """Section `[isolation]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Allowed = Field(
        default=CLASSES,
        description="What new Machines may be in: microvm, gvisor, container, or several of them. Default all: each "
        "host takes what it prefers, which [host] isolation says.",
    )
    organizations: dict[Slug, Allowed] = Field(
        default={},
        max_length=10_000,
        description='The same for single organizations, by slug, such as { acme = ["microvm"] }. Default none: all '
        "have the default. Machines that are there already stay what they are.",
    )

    def allowed(self, slug: str) -> tuple[str, ...]:
        """To an organization. Empty: everything."""
        found = self.organizations.get(slug, self.default)
        return () if set(found) == set(CLASSES) else found


def held(bids: Iterable[Bid], allowed: tuple[str, ...]) -> list[Bid]:
    """The bids, those refused that are for something else than what is allowed."""
    return [bid if not allowed or bid.refusal or bid.isolation in allowed else _refused(bid, allowed) for bid in bids]


def _refused(bid: Bid, allowed: tuple[str, ...]) -> Bid:
    offered = bid.isolation or "something that it does not name"
    refusal = f"the organization must have {' or '.join(allowed)}, and host {bid.host_id} offers {offered}"
    return bid.model_copy(update={"refusal": refusal})
