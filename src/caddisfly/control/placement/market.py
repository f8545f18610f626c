"""The market: ask the hosts of a region for bids, and rank what comes back.

Hosts decide about themselves, so there is no scheduler whose picture of them could be wrong. A bid is not a
reservation: the host that is asked to create may still refuse, and the next best is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.control.hosts import Hosts
from caddisfly.control.placement.isolation import IsolationSettings, held
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, Problem, Unprocessable
from caddisfly.model.region import expand

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offers:
    """The hosts that would take it, best first, and why the others would not."""

    bids: tuple[contract.Bid, ...]
    refusals: tuple[str, ...]


class Market:
    """`region` is where Machines go whose client names none; `isolation` says what organizations may have."""

    def __init__(self, bus: Bus, hosts: Hosts, *, region: str, isolation: IsolationSettings, timeout_s: float) -> None:
        self._bus, self._hosts, self._region, self._timeout_s = bus, hosts, region, timeout_s
        self._isolation = isolation

    def isolation(self, org_slug: str) -> tuple[str, ...]:
        """What the Machines of an organization may be in. Empty: anything."""
        return self._isolation.allowed(org_slug)

    async def offers(self, *, app_id: str, org_slug: str, config: Config, region: str) -> Offers:
        """Raises `InvalidArgument` when the named regions have no host, `Unavailable` without the bus."""
        available = self._hosts.regions
        regions = expand(region, local=self._region, available=available)
        if not regions:
            return Offers((), ("no host is up",))
        request = contract.BidRequest(
            app_id=app_id,
            regions=regions,
            memory_mb=config.guest.memory_mb,
            cores=config.guest.promised_cores,
            gpu_kind=config.guest.gpu_kind,
            image=config.image,
            isolation=self.isolation(org_slug),
        )
        # Hosts of other regions answer too, with a refusal: stopping early would cut off those that could take it.
        asked = len(self._hosts.up)
        answers = await self._bus.gather(
            contract.BIDS, request.model_dump_json().encode(), enough=asked, timeout_s=self._timeout_s
        )
        return rank(held(_read(answers), request.isolation), regions)


def _read(answers: Iterable[bytes]) -> list[contract.Bid]:
    bids = []
    for answer in answers:
        try:
            bids.append(contract.Bid.model_validate_json(answer))
        except ValidationError as error:  # one broken host must not stop the market
            log.error("placement.bad_bid", extra={"reason": str(error)})
    return bids


def rank(bids: Iterable[contract.Bid], regions: tuple[str, ...]) -> Offers:
    """Best first: regions in the order the client wants them, then by score, then by id so that ties are stable."""
    within = [bid for bid in bids if bid.region in regions]
    willing = [bid for bid in within if not bid.refusal]
    willing.sort(key=lambda bid: (regions.index(bid.region), -bid.score, bid.host_id))
    return Offers(tuple(willing), tuple(bid.refusal for bid in within if bid.refusal))


def nobody(refusals: Iterable[str]) -> Problem:
    """The error when no host takes it. Clients know these texts (reference machines-api, M2)."""
    reasons = tuple(dict.fromkeys(refusals))
    for word, lacking in (("memory", "insufficient memory"), ("cpu", "insufficient CPUs")):
        if reasons and all(word in reason.lower() for reason in reasons):
            return Aborted(
                f"could not reserve resource for machine: {lacking} available to fulfill request on the current host",
                why="; ".join(reasons),
                next="stop or destroy Machines, ask for a smaller guest, or add a host",
            )
    return Unprocessable(
        "could not find a candidate host",
        why="; ".join(reasons) or "no host answered",
        next="caddis status shows the hosts",
        status="insufficient_capacity",
    )
