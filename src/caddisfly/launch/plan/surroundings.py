"""What of the platform a plan needs to know: where it has hosts, and what its apps are called outside."""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.client import Client
from caddisfly.launch.build import remote
from caddisfly.launch.config.findings import nearest
from caddisfly.launch.plan.values import FROM_FILE, GIVEN, Value
from caddisfly.model.errors import FailedPrecondition, InvalidArgument

_RETIRED = {
    old: new
    for new, olds in {
        "dfw": "atl den mia gdl qro",
        "ewr": "bos",
        "lax": "phx",
        "sjc": "sea",
        "yyz": "yul",
        "ams": "waw",
        "cdg": "mad",
        "fra": "otp",
        "gru": "bog gig scl eze",
        "sin": "hkg",
    }.items()
    for old in olds.split()
}
"""Regions that Fly has given up, and where it moved what was there."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`domain` is empty where the platform does not say it."""

    regions: tuple[str, ...]
    nearest: str
    domain: str = ""

    @classmethod
    def of(cls, client: Client) -> Surroundings:
        found = client.regions()
        try:
            domain = remote.registry(client).host.partition(".")[2]
        except FailedPrecondition:
            domain = ""
        return cls(tuple(region["code"] for region in found["Regions"]), str(found["Nearest"]), domain)

    def region(self, given: str, written: str) -> Value[str]:
        """`--region`, else the file's if there is a host in it, else the nearest.

        Raises `InvalidArgument` for a region that was named on the command line and has no host.
        """
        wanted, origin = (given, GIVEN) if given else (written, FROM_FILE)
        moved = _RETIRED.get(wanted, "")
        if wanted in self.regions:
            return Value(wanted, origin)
        if moved in self.regions:
            return Value(moved, f"{wanted} was retired in its favour")
        if given:
            near = nearest(given, self.regions)
            raise InvalidArgument(
                f"there is no host in region '{given}'",
                why=f"regions with a host: {', '.join(self.regions) or 'none'}",
                next=f"did you mean --region {near}?" if near else "--region with one of these, or leave it out",
            )
        why = f"there is no host in {wanted}, which your fly.toml names" if wanted else "the nearest with a host"
        return Value(self.nearest, why)
